//! monoio on its io_uring driver: a submission for each datagram in each direction, several under way.

use std::rc::Rc;

use anyhow::Result;
use monoio::net::udp::UdpSocket;
use monoio::{IoUringDriver, RuntimeBuilder};

use super::{DATAGRAM_MAX, TASKS, plain_socket};

pub fn run() -> Result<()> {
    let mut runtime = RuntimeBuilder::<IoUringDriver>::new().with_entries(256).build()?;
    runtime.block_on(async {
        let socket = Rc::new(UdpSocket::from_std(plain_socket()?)?);
        let tasks: Vec<_> = (0..TASKS).map(|_| monoio::spawn(echo(Rc::clone(&socket)))).collect();
        for task in tasks {
            task.await?;
        }
        Ok(())
    })
}

async fn echo(socket: Rc<UdpSocket>) -> Result<()> {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let (received, mut filled) = socket.recv_from(buffer).await;
        let (len, from) = received?;
        filled.truncate(len);
        let (sent, mut back) = socket.send_to(filled, from).await;
        sent?;
        back.resize(DATAGRAM_MAX, 0);
        buffer = back;
    }
}
