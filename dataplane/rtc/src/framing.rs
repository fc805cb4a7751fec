//! Datagrams on a byte stream (RFC 4571, as RFC 6544 §3 uses it): each with its length in front, two bytes, big-endian.

/// Largest frame taken. What a peer sends is made for a datagram's path; more is not WebRTC.
pub const FRAME_BYTES_MAX: usize = 2_048;
/// Bytes of length in front of each frame.
pub const PREFIX_BYTES: usize = 2;

/// A frame longer than [`FRAME_BYTES_MAX`]: the stream cannot be read on. The peer's doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a frame of {0} bytes on a stream of datagrams")]
pub struct FrameTooLong(pub usize);

/// What stands before a datagram of `len` bytes; `None` when that does not fit.
pub fn prefix(len: usize) -> Option<[u8; PREFIX_BYTES]> {
    u16::try_from(len).ok().map(u16::to_be_bytes)
}

/// A frame and what follows it; `None` while it is not whole.
pub type Split<'a> = Option<(&'a [u8], &'a [u8])>;

/// The first frame of `bytes`.
pub fn split_frame(bytes: &[u8]) -> Result<Split<'_>, FrameTooLong> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes(*prefix));
    if len > FRAME_BYTES_MAX { Err(FrameTooLong(len)) } else { Ok(rest.split_at_checked(len)) }
}

/// Takes a stream apart, however it was cut on its way. Holds at most one frame.
#[derive(Default, Debug)]
pub struct Deframer {
    /// The start of a frame whose end has not come.
    partial: Vec<u8>,
}

impl Deframer {
    /// Takes the stream's next bytes; each frame that is whole goes to `on_frame`, empty ones left out. After an error the
    /// stream is of no use.
    pub fn push(&mut self, mut bytes: &[u8], on_frame: &mut dyn FnMut(&[u8])) -> Result<(), FrameTooLong> {
        while !self.partial.is_empty() {
            // Up to what the frame lacks, as far as that is known.
            let lacking = match self.partial.first_chunk::<PREFIX_BYTES>() {
                Some(prefix) => PREFIX_BYTES + usize::from(u16::from_be_bytes(*prefix)) - self.partial.len(),
                None => PREFIX_BYTES - self.partial.len(),
            };
            let Some((head, rest)) = bytes.split_at_checked(lacking) else {
                self.partial.extend_from_slice(bytes);
                return Ok(());
            };
            self.partial.extend_from_slice(head);
            bytes = rest;
            if let Some((frame, _)) = split_frame(&self.partial)? {
                if !frame.is_empty() {
                    on_frame(frame);
                }
                self.partial.clear();
            }
        }
        while let Some((frame, rest)) = split_frame(bytes)? {
            if !frame.is_empty() {
                on_frame(frame);
            }
            bytes = rest;
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(frames: &[&[u8]]) -> Vec<u8> {
        let framed = |frame: &&[u8]| [&prefix(frame.len()).unwrap()[..], frame].concat();
        frames.iter().flat_map(framed).collect()
    }

    fn taken_apart(pieces: &[&[u8]]) -> Result<Vec<Vec<u8>>, FrameTooLong> {
        let (mut deframer, mut frames) = (Deframer::default(), Vec::new());
        for piece in pieces {
            deframer.push(piece, &mut |frame| frames.push(frame.to_vec()))?;
            assert!(deframer.partial.len() < PREFIX_BYTES + FRAME_BYTES_MAX);
        }
        Ok(frames)
    }

    #[test]
    fn frames_are_the_same_wherever_the_stream_is_cut() {
        let long = [7; FRAME_BYTES_MAX];
        let sent: [&[u8]; 5] = [b"one", b"", &[1; 300], b"x", &long];
        let wanted: Vec<Vec<u8>> = sent.iter().filter(|f| !f.is_empty()).map(|f| f.to_vec()).collect();
        let bytes = stream(&sent);
        for cut in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            assert_eq!(taken_apart(&[head, tail]).unwrap(), wanted, "cut at {cut}");
        }
        for size in [1, 2, 3, 7, 1_000] {
            let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
            assert_eq!(taken_apart(&pieces).unwrap(), wanted, "pieces of {size}");
        }
    }

    #[test]
    fn a_frame_that_is_too_long_ends_the_stream_before_it_is_held() {
        for bytes in [&[0xff, 0xff][..], &[0x08, 0x01, 0], &[0, 1, 9, 0xff, 0xff]] {
            assert!(taken_apart(&[bytes]).is_err(), "{bytes:?}");
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert!(taken_apart(&single).is_err(), "{bytes:?} byte by byte");
        }
        assert_eq!(prefix(65_536), None);
    }
}
