//! A VP8 frame into RTP payloads and back (RFC 7741).

use auralink_codecs::vp8::Descriptor;

/// Bytes of the largest payload written, descriptor included.
const PAYLOAD_BYTES_MAX: usize = 1_100;
/// X octet, extension octet, 15-bit picture id, TL0PICIDX, TID.
const DESCRIPTOR_LEN: usize = 6;

/// Splits a frame into payloads of nearly equal size, each with its descriptor.
pub(crate) fn packetize(frame: &[u8], picture_id: u16, tl0: u8) -> Vec<Vec<u8>> {
    let count = frame.len().div_ceil(PAYLOAD_BYTES_MAX - DESCRIPTOR_LEN).max(1);
    let chunk_len = frame.len().div_ceil(count).max(1);
    let [high, low] = (picture_id | 0x8000).to_be_bytes();
    let parts = frame.chunks(chunk_len).enumerate().map(|(index, part)| {
        let start = if index == 0 { 0x10 } else { 0 };
        let mut payload = vec![0x80 | start, 0xe0, high, low, tl0, 0];
        payload.extend_from_slice(part);
        payload
    });
    parts.collect()
}

/// One received payload: its descriptor and the part of the frame behind it.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) descriptor: Descriptor,
    pub(crate) bytes: Vec<u8>,
}

impl Part {
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let descriptor = Descriptor::parse(payload)?;
        let bytes = payload.get(usize::from(descriptor.len)..)?.to_vec();
        Some(Self { descriptor, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_put_together_are_the_frame() {
        let frame: Vec<u8> = (0..5_000_u32).map(|n| n as u8).collect();
        let payloads = packetize(&frame, 0x7fff, 9);
        assert_eq!(payloads.len(), 5);
        let parts: Vec<Part> = payloads.iter().map(|payload| Part::parse(payload).unwrap()).collect();
        assert!(payloads.iter().all(|payload| payload.len() <= PAYLOAD_BYTES_MAX));
        assert_eq!(parts.iter().flat_map(|part| part.bytes.clone()).collect::<Vec<u8>>(), frame);
        assert!(parts.iter().enumerate().all(|(i, part)| part.descriptor.frame_start == (i == 0)));
        let ids = parts.iter().map(|part| part.descriptor.picture_id.map(|id| id.value));
        assert!(ids.clone().all(|id| id == Some(0x7fff)));
        assert_eq!(parts[0].descriptor.tl0_picture_index, Some(9));
    }
}
