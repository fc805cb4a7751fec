//! Who is speaking: loudness of a track from its audio level extension (RFC 6464), smoothed over intervals.

/// −dBov at or below which a packet counts as loud, as LiveKit's default.
const ACTIVE_LEVEL: u8 = 35;
/// Share of an interval's packets that must be loud, in percent.
const ACTIVE_PERCENT: u32 = 40;
/// Change of level worth telling, 1/8.
const STEP: f32 = 0.125;

#[derive(Clone, Copy, Debug, Default)]
pub struct Loudness {
    packets: u32,
    loud: u32,
    loudest: Option<u8>,
    smoothed: f32,
    told: f32,
    /// In the shard's list of tracks to look at when the interval ends.
    pub(crate) listed: bool,
}

impl Loudness {
    /// Notes one packet's level octet: bit 7 voice activity, else −dBov. True when the track has to be listed.
    pub fn on_packet(&mut self, octet: u8) -> bool {
        let level = octet & 0x7f;
        self.packets += 1;
        if level <= ACTIVE_LEVEL {
            self.loud += 1;
        }
        self.loudest = Some(self.loudest.map_or(level, |loudest| loudest.min(level)));
        !std::mem::replace(&mut self.listed, true)
    }

    /// Ends an interval: the level 0.0 to 1.0 to tell, if it changed by a step; and whether the track is now quiet and may
    /// leave the list.
    pub fn end_interval(&mut self) -> (Option<f32>, bool) {
        let active = self.packets > 0 && self.loud * 100 >= self.packets * ACTIVE_PERCENT;
        let level = if active {
            // RFC 6465's inverse: 10^(−dBov/20).
            self.loudest.map_or(0.0, |loudest| 10_f32.powf(-f32::from(loudest) / 20.0))
        } else {
            0.0
        };
        self.smoothed += (level - self.smoothed) * 0.5;
        (self.packets, self.loud, self.loudest) = (0, 0, None);
        let quantised = if self.smoothed < 0.001 { 0.0 } else { (self.smoothed / STEP).ceil() * STEP };
        let changed = (quantised - self.told).abs() > f32::EPSILON;
        self.told = quantised;
        let quiet = quantised == 0.0 && !changed;
        if quiet {
            self.listed = false;
            self.smoothed = 0.0;
        }
        (changed.then_some(quantised), quiet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speech_is_told_and_so_is_its_end() {
        let mut loudness = Loudness::default();
        assert!(loudness.on_packet(0x80 | 10));
        for _ in 0..19 {
            assert!(!loudness.on_packet(0x80 | 10));
        }
        let (level, quiet) = loudness.end_interval();
        assert!(level.is_some_and(|level| level > 0.1) && !quiet);
        let mut told = Vec::new();
        for _ in 0..12 {
            let (level, quiet) = loudness.end_interval();
            told.extend(level);
            if quiet {
                break;
            }
        }
        assert_eq!(told.last(), Some(&0.0));
        assert!(!loudness.listed);
    }

    #[test]
    fn noise_below_the_threshold_is_silence() {
        let mut loudness = Loudness::default();
        for _ in 0..20 {
            loudness.on_packet(60);
        }
        assert_eq!(loudness.end_interval(), (None, true));
    }
}
