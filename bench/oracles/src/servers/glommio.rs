//! glommio on one executor: its io_uring reactor, several echoes under way.

use std::rc::Rc;

use anyhow::{Result, anyhow};
use glommio::LocalExecutorBuilder;
use glommio::net::UdpSocket;

use super::{DATAGRAM_MAX, TASKS, announce};

pub fn run() -> Result<()> {
    let handle = LocalExecutorBuilder::default().spawn(|| async {
        let socket = Rc::new(UdpSocket::bind("127.0.0.1:0").map_err(|error| anyhow!("{error}"))?);
        announce(socket.local_addr().map_err(|error| anyhow!("{error}"))?.port())?;
        let echo = |socket: Rc<UdpSocket>| async move {
            let mut datagram = vec![0; DATAGRAM_MAX];
            loop {
                let (len, from) =
                    socket.recv_from(&mut datagram).await.map_err(|error| anyhow!("{error}"))?;
                socket.send_to(&datagram[..len], from).await.map_err(|error| anyhow!("{error}"))?;
            }
        };
        let tasks: Vec<glommio::Task<Result<()>>> =
            (0..TASKS).map(|_| glommio::spawn_local(echo(Rc::clone(&socket)))).collect();
        for task in tasks {
            task.await?;
        }
        Ok(())
    });
    handle
        .map_err(|error| anyhow!("glommio does not start: {error}"))?
        .join()
        .map_err(|error| anyhow!("{error}"))?
}
