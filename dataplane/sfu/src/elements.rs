//! Header extension elements: what a received packet's say to this node, and those it passes on as they are.
//!
//! What is passed on is kept in the history behind its packet's payload, element by element: which it is, its length, its value.

use auralink_codecs::dependency::DependencyDescriptor;
use auralink_proto::{ExtensionMap, ExtensionUri};
use auralink_rtc::rtp::RtpHeader;

/// Extensions whose values subscribers get as publishers send them, but for the dependency descriptor's frame number.
pub const PASSED: [ExtensionUri; 3] =
    [ExtensionUri::DependencyDescriptor, ExtensionUri::PlayoutDelay, ExtensionUri::AbsCaptureTime];
/// Place of the dependency descriptor in [`PASSED`].
pub const DEPENDENCY: usize = 0;
/// Octets kept in front of each value.
const HEAD_LEN: usize = 2;

/// Identifiers of one section: 0, which no element has, for what was not negotiated.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ElementIds {
    level: u8,
    transport_cc: u8,
    pub passed: [u8; PASSED.len()],
}

impl ElementIds {
    pub fn new(extensions: &ExtensionMap) -> Self {
        let id = |uri| extensions.id(uri).unwrap_or(0);
        Self {
            level: id(ExtensionUri::AudioLevel),
            transport_cc: id(ExtensionUri::TransportCc),
            passed: PASSED.map(id),
        }
    }
}

/// What one packet's extension says.
#[derive(Clone, Copy, Default, Debug)]
pub struct Elements<'a> {
    /// RFC 6464: bit 7 voice activity, bits 0 to 6 level in −dBov.
    pub level: Option<u8>,
    /// Transport-wide number.
    pub number: Option<u16>,
    /// Values to be passed on, empty for those that are not there or are not what they should be.
    passed: [&'a [u8]; PASSED.len()],
}

impl<'a> Elements<'a> {
    /// Reads all elements once.
    pub fn read(ids: &ElementIds, header: &RtpHeader, datagram: &'a [u8]) -> Self {
        let mut elements = Self::default();
        for (id, value) in header.extensions(datagram) {
            if id == ids.transport_cc {
                elements.number = value.first_chunk::<2>().map(|number| u16::from_be_bytes(*number));
            } else if id == ids.level {
                elements.level = value.first().copied();
            } else {
                let at = ids.passed.iter().position(|passed| *passed == id);
                if let Some(place) =
                    at.filter(|at| is_whole(*at, value)).and_then(|at| elements.passed.get_mut(at))
                {
                    *place = value;
                }
            }
        }
        elements
    }

    /// Takes the dependency descriptor out: receivers of some codecs do better without.
    pub fn forget_dependency(&mut self) {
        self.passed[DEPENDENCY] = &[];
    }

    pub fn dependency(&self) -> Option<DependencyDescriptor> {
        DependencyDescriptor::parse(self.passed[DEPENDENCY])
    }

    /// Octets that [`Self::store`] writes.
    pub fn stored_len(&self) -> usize {
        self.passed.iter().filter(|value| !value.is_empty()).map(|value| HEAD_LEN + value.len()).sum()
    }

    /// Writes what is passed on into `place`, which has room for it.
    pub fn store(&self, mut place: &mut [u8]) {
        for (index, value) in self.passed.iter().enumerate().filter(|(_, value)| !value.is_empty()) {
            let Some((head, rest)) = place.split_first_chunk_mut::<HEAD_LEN>() else { return };
            let Some((body, rest)) = rest.split_at_mut_checked(value.len()) else { return };
            *head = [index as u8, value.len() as u8];
            body.copy_from_slice(value);
            place = rest;
        }
    }
}

/// Whether a value has a length its extension allows: a dependency descriptor at least three octets, a playout delay three, a
/// capture time eight, or sixteen with the clock's offset.
fn is_whole(index: usize, value: &[u8]) -> bool {
    match PASSED[index] {
        ExtensionUri::PlayoutDelay => value.len() == 3,
        ExtensionUri::AbsCaptureTime => matches!(value.len(), 8 | 16),
        _ => (3..=255).contains(&value.len()),
    }
}

/// The stored elements again: places in [`PASSED`] and values.
pub fn stored(mut bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    std::iter::from_fn(move || {
        let ([index, len], rest) = bytes.split_first_chunk::<HEAD_LEN>()?;
        let (value, rest) = rest.split_at_checked(usize::from(*len))?;
        bytes = rest;
        Some((usize::from(*index), value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use auralink_rtc::ext::Form;
    use auralink_rtc::rtp::{HeaderWriter, RtpFields};

    fn ids() -> ElementIds {
        let mut extensions = ExtensionMap::default();
        extensions.set(ExtensionUri::AudioLevel, 1);
        extensions.set(ExtensionUri::TransportCc, 3);
        extensions.set(ExtensionUri::DependencyDescriptor, 15);
        extensions.set(ExtensionUri::PlayoutDelay, 5);
        ElementIds::new(&extensions)
    }

    fn packet(elements: &[(u8, &[u8])]) -> Vec<u8> {
        let mut out = vec![0; 400];
        let mut writer = HeaderWriter::with_form(&mut out, &RtpFields::default(), Form::TwoByte).unwrap();
        assert!(elements.iter().all(|(id, value)| writer.extension(*id, value)));
        let len = writer.finish();
        out.truncate(len);
        out
    }

    #[test]
    fn elements_are_read_by_their_sections_identifiers_and_kept() {
        let long = [0x80; 40];
        let bytes = packet(&[(1, &[0x85]), (3, &[1, 2]), (15, &long), (5, &[7, 8, 9]), (6, &[1; 8])]);
        let header = RtpHeader::parse(&bytes).unwrap();
        let elements = Elements::read(&ids(), &header, &bytes);
        assert_eq!((elements.level, elements.number), (Some(0x85), Some(0x0102)));
        assert_eq!(elements.dependency().unwrap().frame_number, 0x8080);
        let mut kept = vec![0; elements.stored_len()];
        elements.store(&mut kept);
        assert_eq!(stored(&kept).collect::<Vec<_>>(), [(0, &long[..]), (1, &[7, 8, 9])]);
        let mut without = elements;
        without.forget_dependency();
        assert_eq!((without.stored_len(), without.dependency()), (5, None));
    }

    #[test]
    fn values_of_wrong_lengths_are_not_passed_on() {
        let bytes = packet(&[(15, &[0x80, 1]), (5, &[7, 8]), (1, &[]), (3, &[1])]);
        let header = RtpHeader::parse(&bytes).unwrap();
        let elements = Elements::read(&ids(), &header, &bytes);
        assert_eq!((elements.stored_len(), elements.level, elements.number), (0, None, None));
    }

    #[test]
    fn nothing_is_read_of_what_was_not_negotiated() {
        let bytes = packet(&[(1, &[0x85]), (3, &[1, 2]), (5, &[7, 8, 9])]);
        let header = RtpHeader::parse(&bytes).unwrap();
        let elements = Elements::read(&ElementIds::default(), &header, &bytes);
        assert_eq!((elements.stored_len(), elements.level, elements.number), (0, None, None));
    }

    #[test]
    fn what_is_kept_of_a_cut_store_is_whole() {
        let kept = [0, 3, 1, 2, 3, 1, 3, 7, 8];
        assert_eq!(stored(&kept).collect::<Vec<_>>(), [(0, &[1, 2, 3][..])]);
    }
}
