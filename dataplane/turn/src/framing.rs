//! Messages in a stream (RFC 8656 §12.5, RFC 8489 §6.2.2): STUN messages and ChannelData say their own length; ChannelData is
//! padded to a multiple of four.

use std::ops::Range;

/// Longest message taken from a stream or a datagram. WebRTC's packets are below 1,500 bytes.
pub const MESSAGE_LEN_MAX: usize = 2_048;

/// The stream is not one of TURN messages, or one of them is longer than [`MESSAGE_LEN_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a TURN message")]
pub struct NotTurn;

/// The first message in what was received, without its padding, and how many bytes it takes. `None` while it is not complete.
///
/// # Errors
/// [`NotTurn`]; the client's fault, and nothing after it can be read.
pub fn next_message(received: &[u8]) -> Result<Option<(Range<usize>, usize)>, NotTurn> {
    let Some([first, _, l0, l1]) = received.first_chunk::<4>() else { return Ok(None) };
    let body = usize::from(u16::from_be_bytes([*l0, *l1]));
    let (len, taken) = match first >> 6 {
        0 => (20 + body, 20 + body),
        1 => (4 + body, 4 + body.next_multiple_of(4)),
        _ => return Err(NotTurn),
    };
    if len > MESSAGE_LEN_MAX || (first >> 6 == 0 && body % 4 != 0) {
        return Err(NotTurn);
    }
    Ok((received.len() >= taken).then_some((0..len, taken)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_where_they_end() {
        let stun = [&[0, 1, 0, 4], [7; 20].as_slice()].concat();
        assert_eq!(next_message(&stun), Ok(Some((0..24, 24))));
        assert_eq!(next_message(&stun[..23]), Ok(None));
        let data = [0x40, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0, 0xff];
        assert_eq!(next_message(&data), Ok(Some((0..9, 12))));
        assert_eq!(next_message(&data[..11]), Ok(None), "the padding belongs to it");
        assert_eq!(next_message(&data[..3]), Ok(None));
    }

    #[test]
    fn what_is_no_turn_ends_the_stream() {
        assert_eq!(next_message(b"GET / HTTP/1.1"), Err(NotTurn), "ChannelData of 21,536 bytes");
        assert_eq!(
            next_message(&[0x16, 3, 1, 2]),
            Err(NotTurn),
            "a TLS ClientHello is no STUN of even length"
        );
        assert_eq!(next_message(&[0x80, 0, 0, 0]), Err(NotTurn));
        assert_eq!(next_message(&[0x40, 0, 8, 0]), Err(NotTurn), "2,052 bytes");
        assert_eq!(next_message(&[0, 1, 0, 5]), Err(NotTurn));
    }
}
