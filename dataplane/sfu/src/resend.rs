//! How often and how soon one packet may be resent: a subscriber's requests must not make us repeat ourselves without end.

use std::time::Instant;

/// Packets watched at once; a power of two.
const WATCHED: usize = 512;
/// Times one packet is resent.
const RESENDS_MAX: u8 = 5;
/// Between two resends of one packet: a second request this soon is the same request.
const INTERVAL_MS: u16 = 20;

#[derive(Clone, Copy, Default, Debug)]
struct Watched {
    /// Which packet of all that share the place: the number's next bits.
    cycle: u8,
    resends: u8,
    /// Milliseconds since [`ResendLimit::origin`], wrapping.
    last_ms: u16,
}

/// Written only when something is resent.
#[derive(Debug)]
pub struct ResendLimit {
    origin: Instant,
    watched: Box<[Watched]>,
}

impl ResendLimit {
    pub fn new(now: Instant) -> Self {
        Self { origin: now, watched: vec![Watched::default(); WATCHED].into_boxed_slice() }
    }

    /// Whether number `seq` may be resent now; if so, it counts as resent.
    pub fn admits(&mut self, now: Instant, seq: u64) -> bool {
        let now_ms = now.saturating_duration_since(self.origin).as_millis() as u16;
        let cycle = (seq / WATCHED as u64) as u8;
        let Some(watched) = self.watched.get_mut(seq as usize & (WATCHED - 1)) else { return false };
        if watched.cycle != cycle {
            *watched = Watched { cycle, ..Watched::default() };
        }
        let too_soon = watched.resends > 0 && now_ms.wrapping_sub(watched.last_ms) < INTERVAL_MS;
        if too_soon || watched.resends >= RESENDS_MAX {
            return false;
        }
        watched.resends += 1;
        watched.last_ms = now_ms;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn each_number_is_resent_so_often_and_not_too_soon() {
        let start = Instant::now();
        let mut limit = ResendLimit::new(start);
        let at = |ms| start + Duration::from_millis(ms);
        assert!(limit.admits(at(1), 1_000) && !limit.admits(at(20), 1_000));
        assert!(limit.admits(at(2), 1_001));
        let again = (1..20).filter(|n| limit.admits(at(1 + n * 30), 1_000)).count();
        assert_eq!(again, usize::from(RESENDS_MAX) - 1);
        // Another number in the same place starts anew.
        assert!(limit.admits(at(900), 1_000 + WATCHED as u64));
    }
}
