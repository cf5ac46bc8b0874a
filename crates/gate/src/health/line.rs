//! The connection of a probe: the way requests take, with the PROXY header and the TLS of the
//! service.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::probe::Fault;
use crate::proxy_protocol;
use crate::service::Service;

/// What a probe reads and writes.
pub(super) trait Line: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Line for T {}

/// Opens a connection and says on it what stands before a request. `protocol` is offered by ALPN
/// where the service speaks TLS.
pub(super) async fn open(
    service: &Service,
    target: SocketAddr,
    protocol: &[u8],
) -> Result<Box<dyn Line>, Fault> {
    let mut stream = connect(target).await?;
    if let Some(version) = service.settings.proxy_protocol {
        let header = proxy_protocol::write_own(version);
        let written = stream.write_all(&header).await;
        written.map_err(|error| Fault::Bad(format!("connection: {error}")))?;
    }
    let Some(way) = service.way.get() else {
        return Ok(Box::new(stream));
    };
    let mut config = way.tls.config();
    if config.alpn_protocols != [protocol] {
        Arc::make_mut(&mut config).alpn_protocols = vec![protocol.to_vec()];
    }
    let name = way.tls.name(target.ip());
    let sealed = TlsConnector::from(config).connect(name, stream).await;
    match sealed {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(Fault::Bad(format!("TLS: {error}"))),
    }
}

/// Opens a connection.
pub(super) async fn connect(target: SocketAddr) -> Result<TcpStream, Fault> {
    let failed = |error: std::io::Error| {
        // No descriptor left is our trouble, not the backend's.
        let ours = [
            libc::EMFILE,
            libc::ENFILE,
            libc::ENOBUFS,
            libc::ENOMEM,
            libc::EADDRNOTAVAIL,
        ];
        let why = format!("connect: {error}");
        if error
            .raw_os_error()
            .is_some_and(|code| ours.contains(&code))
        {
            Fault::Unable(why)
        } else {
            Fault::Bad(why)
        }
    };
    TcpStream::connect(target).await.map_err(failed)
}
