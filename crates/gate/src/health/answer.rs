//! What comes back to probes: a gRPC health answer, an ICMP echo. Pure.

/// Reads `grpc.health.v1.HealthCheckResponse` in its gRPC frame: the serving status, 1 for
/// SERVING; an absent field is 0, UNKNOWN. `None` for what is no such message.
#[must_use]
pub fn grpc_status(body: &[u8]) -> Option<u64> {
    let (frame, message) = body.split_at_checked(5)?;
    let (compressed, length) = frame.split_first()?;
    let length = u32::from_be_bytes(length.try_into().ok()?);
    if *compressed != 0 || usize::try_from(length).ok()? != message.len() {
        return None;
    }
    let mut rest = message;
    let mut status = 0;
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        match (key >> 3, key & 7) {
            (0, _) => return None,
            (1, 0) => status = varint(&mut rest)?,
            // Fields of a later version.
            (_, 0) => drop(varint(&mut rest)?),
            (_, 1) => rest = rest.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            (_, 5) => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn low_bits(number: usize) -> u8 {
    u8::try_from(number & 0x7f).unwrap_or(0)
}

/// `grpc.health.v1.HealthCheckRequest` for `service` in its gRPC frame.
#[must_use]
pub fn grpc_request(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(0x80 | low_bits(length));
            length >>= 7;
        }
        message.push(low_bits(length));
        message.extend_from_slice(service.as_bytes());
    }
    let mut body = vec![0];
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    body.extend_from_slice(&length.to_be_bytes());
    body.extend_from_slice(&message);
    body
}

/// An ICMP echo request (RFC 792, RFC 4443 §4.1) that carries `payload`.
#[must_use]
pub fn echo_request(v6: bool, identifier: u16, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![if v6 { 128 } else { 8 }, 0, 0, 0];
    packet.extend_from_slice(&identifier.to_be_bytes());
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(payload);
    if !v6 {
        // With IPv6 the kernel fills it in: it covers addresses that we do not know.
        let sum = checksum(&packet).to_be_bytes();
        if let Some(place) = packet.get_mut(2..4) {
            place.copy_from_slice(&sum);
        }
    }
    packet
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u64 = bytes
        .chunks(2)
        .map(|pair| {
            let high = pair.first().copied().unwrap_or(0);
            let low = pair.get(1).copied().unwrap_or(0);
            u64::from(u16::from_be_bytes([high, low]))
        })
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// The payload of an echo reply; `None` for any other packet. With `header` an IPv4 header stands
/// before it, as raw sockets bring it.
#[must_use]
pub fn echo_reply(packet: &[u8], v6: bool, header: bool) -> Option<&[u8]> {
    let message = if header && !v6 {
        let first = *packet.first()?;
        if first >> 4 != 4 {
            return None;
        }
        packet.get(usize::from(first & 0x0f) * 4..)?
    } else {
        packet
    };
    let wanted = if v6 { 129 } else { 0 };
    let is_reply = message.first() == Some(&wanted) && message.get(1) == Some(&0);
    if is_reply { message.get(8..) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_answers() {
        let check = |body: &[u8], expected| assert_eq!(grpc_status(body), expected, "{body:?}");
        check(&[0, 0, 0, 0, 2, 8, 1], Some(1));
        check(&[0, 0, 0, 0, 2, 8, 2], Some(2));
        check(&[0, 0, 0, 0, 0], Some(0));
        check(&[0, 0, 0, 0, 6, 0x12, 2, 7, 7, 8, 1], Some(1));
        check(&[1, 0, 0, 0, 2, 8, 1], None);
        check(&[0, 0, 0, 0, 3, 8, 1], None);
        check(&[0, 0, 0, 0, 1, 8], None);
        check(&[0, 0, 0, 0, 2, 0x12, 9], None);
        check(&[], None);
        assert_eq!(grpc_request(""), [0, 0, 0, 0, 0]);
        assert_eq!(grpc_request("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = grpc_request(&"x".repeat(200));
        assert_eq!(long[4..8], [203, 0x0a, 0xc8, 1]);
    }

    #[test]
    fn echoes() {
        let request = echo_request(false, 0x1234, 1, b"payload!");
        assert_eq!(checksum(&request), 0, "a checksum makes the sum whole");
        let mut reply = request.clone();
        reply[0] = 0;
        assert_eq!(echo_reply(&reply, false, false), Some(&b"payload!"[..]));
        assert_eq!(echo_reply(&request, false, false), None);
        let mut with_header = vec![0x45; 20];
        with_header.extend_from_slice(&reply);
        assert_eq!(
            echo_reply(&with_header, false, true),
            Some(&b"payload!"[..])
        );
        let mut six = echo_request(true, 7, 1, b"p");
        six[0] = 129;
        assert_eq!(echo_reply(&six, true, true), Some(&b"p"[..]));
        for short in 0..8 {
            assert_eq!(echo_reply(&reply[..short], false, false), None);
        }
    }
}
