//! What of a peer's handshake reaches the library behind [`super::any`].
//!
//! That library keeps fragments until they make a message, joins them by recursion and bounds neither their number nor what they
//! claim; honest handshakes, with every flight repeated, stay far below what is admitted here. And a repetition of what it has makes
//! it forget its own timer, so that it would never repeat the flight the peer is missing: repetitions end here.

use bytes::{BufMut as _, BytesMut};

/// Bytes of handshake records, all flights and repetitions together.
const BYTES_MAX: usize = 64 << 10;
/// Plain fragments: a flight has up to six.
const FRAGMENTS_MAX: usize = 128;
/// Encrypted records of the handshake: Finished and its repetitions.
const SEALED_MAX: usize = 12;

/// Record header (RFC 6347 §4.1): type, version, epoch, sequence number, length.
const RECORD_HEADER: usize = 13;
/// Handshake header (RFC 6347 §4.2.2): type, length, sequence number, fragment offset, fragment length.
const HANDSHAKE_HEADER: usize = 12;
const HANDSHAKE: u8 = 22;
/// Longest message: a certificate chain is a few kilobytes.
const MESSAGE_MAX: usize = 16 << 10;

/// What to do with a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Take,
    /// It is no DTLS, its fragments contradict themselves, or all of it came before.
    Ignore,
    /// The peer has sent more than any handshake needs.
    Exhausted,
}

/// A plain fragment: number of its message, offset, length.
type Fragment = (u16, usize, usize);

/// What a peer has sent of its handshake.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Intake {
    bytes: usize,
    fragments: Vec<Fragment>,
    sealed: usize,
}

impl Intake {
    /// Judges a datagram and copies the records that are to be taken. What is ignored costs nothing.
    pub(super) fn admit(&mut self, datagram: &[u8], records: &mut BytesMut) -> Verdict {
        let (mut bytes, mut sealed, mut fragments) = (self.bytes, self.sealed, Vec::new());
        let mut rest = datagram;
        while !rest.is_empty() {
            let Some((record, body, behind)) = split_record(rest) else { return Verdict::Ignore };
            let whole = rest.get(..rest.len() - behind.len()).unwrap_or_default();
            rest = behind;
            if record.kind == HANDSHAKE && record.epoch == 0 {
                let Some(mut found) = read_fragments(body) else { return Verdict::Ignore };
                found.retain(|fragment| !self.fragments.contains(fragment));
                if found.is_empty() {
                    continue;
                }
                fragments.append(&mut found);
            } else if record.kind == HANDSHAKE {
                sealed += 1;
            }
            bytes += if record.kind == HANDSHAKE { body.len() } else { 0 };
            records.put_slice(whole);
        }
        let count = self.fragments.len() + fragments.len();
        if bytes > BYTES_MAX || count > FRAGMENTS_MAX || sealed > SEALED_MAX {
            return Verdict::Exhausted;
        }
        (self.bytes, self.sealed) = (bytes, sealed);
        self.fragments.append(&mut fragments);
        if records.is_empty() { Verdict::Ignore } else { Verdict::Take }
    }
}

struct Record {
    kind: u8,
    epoch: u16,
}

/// The first record, its body and what comes behind.
fn split_record(bytes: &[u8]) -> Option<(Record, &[u8], &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<RECORD_HEADER>()?;
    let [kind, _, _, epoch @ .., high, low] = header;
    let (body, behind) = rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))?;
    let epoch = epoch.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))?;
    (!body.is_empty()).then_some((Record { kind: *kind, epoch }, body, behind))
}

/// Fragments in a plain handshake record; `None` unless each of them fits its message and the record.
fn read_fragments(mut body: &[u8]) -> Option<Vec<Fragment>> {
    let mut fragments = Vec::new();
    while !body.is_empty() {
        let (header, rest) = body.split_first_chunk::<HANDSHAKE_HEADER>()?;
        let [_, l0, l1, l2, m0, m1, o0, o1, o2, f0, f1, f2] = *header;
        let length = u24([l0, l1, l2]);
        let (offset, here) = (u24([o0, o1, o2]), u24([f0, f1, f2]));
        let is_whole = length <= MESSAGE_MAX && offset + here <= length && (here > 0 || length == 0);
        if !is_whole {
            return None;
        }
        body = rest.get(here..)?;
        fragments.push((u16::from_be_bytes([m0, m1]), offset, here));
    }
    Some(fragments)
}

fn u24([a, b, c]: [u8; 3]) -> usize {
    usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, epoch: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind, 254, 253];
        bytes.extend(epoch.to_be_bytes());
        bytes.extend([0; 6]);
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn fragment(message: u8, length: usize, offset: usize, data: &[u8]) -> Vec<u8> {
        let three = |value: usize| (value as u32).to_be_bytes()[1..].to_vec();
        let mut bytes = vec![11];
        bytes.extend(three(length));
        bytes.extend([0, message]);
        bytes.extend(three(offset));
        bytes.extend(three(data.len()));
        bytes.extend(data);
        bytes
    }

    fn admit(intake: &mut Intake, datagram: &[u8]) -> (Verdict, usize) {
        let mut records = BytesMut::new();
        let verdict = intake.admit(datagram, &mut records);
        (verdict, records.len())
    }

    fn taken(intake: &mut Intake, datagrams: impl Iterator<Item = Vec<u8>>) -> usize {
        datagrams.filter(|datagram| admit(intake, datagram).0 == Verdict::Take).count()
    }

    #[test]
    fn of_a_repeated_flight_only_what_is_new_is_taken() {
        let certificate = record(HANDSHAKE, 0, &fragment(2, 900, 0, &[1; 900]));
        let rest = record(HANDSHAKE, 0, &[fragment(3, 100, 0, &[1; 100]), fragment(4, 0, 0, &[])].concat());
        let finished = [record(20, 0, &[1]), record(HANDSHAKE, 1, &[7; 40])].concat();
        let mut intake = Intake::default();
        assert_eq!(admit(&mut intake, &certificate), (Verdict::Take, certificate.len()));
        assert_eq!(admit(&mut intake, &certificate), (Verdict::Ignore, 0), "a repetition");
        let again = [certificate, rest.clone(), finished.clone()].concat();
        assert_eq!(admit(&mut intake, &again), (Verdict::Take, rest.len() + finished.len()));
        for _ in 0..9 {
            assert_eq!(admit(&mut intake, &again), (Verdict::Take, finished.len()), "its end asks for ours");
        }
        for _ in 0..100_000 {
            assert_eq!(
                admit(&mut intake, &record(23, 1, &[0; 1_100])).0,
                Verdict::Take,
                "data is not counted"
            );
        }
    }

    #[test]
    fn fragments_without_end_are_not_taken() {
        let mut intake = Intake::default();
        let small = |offset| record(HANDSHAKE, 0, &fragment(1, 10_000, offset, &[1]));
        assert_eq!(taken(&mut intake, (0..1_000).map(small)), FRAGMENTS_MAX);
        assert_eq!(admit(&mut intake, &small(2_000)).0, Verdict::Exhausted);
        let mut intake = Intake::default();
        let sealed = |_| record(HANDSHAKE, 1, &[0; 1_000]);
        assert_eq!(taken(&mut intake, (0..1_000).map(sealed)), SEALED_MAX);
        let mut intake = Intake::default();
        let long = |message| record(HANDSHAKE, 0, &fragment(message, 16_000, 0, &[1; 1_000]));
        assert_eq!(taken(&mut intake, (0..250).map(long)), BYTES_MAX / 1_012);
    }

    #[test]
    fn what_contradicts_itself_is_ignored_and_costs_nothing() {
        let mut intake = Intake::default();
        let bad = [
            vec![HANDSHAKE],
            record(HANDSHAKE, 0, &[]),
            record(HANDSHAKE, 0, &fragment(1, 5, 0, &[1; 6])),
            record(HANDSHAKE, 0, &fragment(1, 5, 4, &[1; 2])),
            record(HANDSHAKE, 0, &fragment(1, 5, 1, &[])),
            record(HANDSHAKE, 0, &fragment(1, MESSAGE_MAX + 1, 0, &[1])),
            record(HANDSHAKE, 0, &fragment(1, 10, 0, &[1; 10])[..15]),
            record(HANDSHAKE, 0, &[fragment(1, 1, 0, &[1]), vec![9]].concat()),
            [record(HANDSHAKE, 0, &fragment(1, 1, 0, &[1])), vec![HANDSHAKE, 254]].concat(),
        ];
        for datagram in bad {
            assert_eq!(admit(&mut intake, &datagram).0, Verdict::Ignore, "{datagram:?}");
        }
        assert_eq!(intake, Intake::default());
    }
}
