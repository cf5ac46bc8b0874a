//! Any bytes as the beginning of a connection: a PROXY header, refused, or not yet whole; and one that is written is
//! read as what it says.
#![no_main]

use std::net::{IpAddr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use munjigi_gate::proxy_protocol::{HEADER_MAX, Version, read, write};

fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes);
    match whole {
        Ok(Some(header)) => {
            assert!(header.length <= bytes.len() && header.length <= HEADER_MAX);
            // What follows a header changes nothing, and less of it is no header.
            assert_eq!(read(&bytes[..header.length]), whole);
            assert_eq!(read(&bytes[..header.length - 1]), Ok(None));
        }
        Ok(None) => assert!(bytes.len() < HEADER_MAX, "it is never awaited for longer"),
        Err(_) => {}
    }
    if let Some((first, rest)) = bytes.split_first_chunk::<36>() {
        let six = |at: usize| -> IpAddr {
            let mut octets = [0; 16];
            octets.copy_from_slice(&first[at..at + 16]);
            IpAddr::from(octets).to_canonical()
        };
        let port = |at: usize| u16::from_be_bytes([first[at], first[at + 1]]);
        let (source, destination) = (
            SocketAddr::new(six(0), port(32)),
            SocketAddr::new(six(16), port(34)),
        );
        for version in [Version::V1, Version::V2] {
            let mut written = write(version, source, destination);
            let length = written.len();
            written.extend_from_slice(rest);
            let header = read(&written).expect("it is right").expect("it is whole");
            assert_eq!((header.length, header.source), (length, Some(source)));
        }
    }
});
