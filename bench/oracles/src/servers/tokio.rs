//! tokio on one thread: epoll, one system call for each datagram in each direction, as many as there are before it waits.

use anyhow::Result;
use tokio::net::UdpSocket;

use super::{DATAGRAM_MAX, plain_socket};

pub fn run() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let socket = plain_socket()?;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket)?;
        let mut datagram = [0; DATAGRAM_MAX];
        loop {
            let (len, from) = socket.recv_from(&mut datagram).await?;
            socket.send_to(&datagram[..len], from).await?;
        }
    })
}
