//! The names LiveKit's server gives its metrics, for dashboards made for it, beside our own.
//!
//! Only what is counted here as it is there: of packets that come in, for one, repairs are not told from others yet.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use super::Telemetry;

/// Totals over all shards since start.
#[derive(Clone, Copy, Debug, Default)]
pub struct MediaTotals {
    /// Retransmissions not among them.
    pub packets_sent: u64,
    pub packets_retransmitted: u64,
    pub plis_sent: u64,
}

/// Adds them to a page of Prometheus text.
pub(super) fn write(page: &mut String, telemetry: &Telemetry) {
    let labels = format!("node_id=\"{}\",node_type=\"SERVER\",env=\"\"", telemetry.node_sid);
    for (name, gauge) in
        [("livekit_room_total", &telemetry.rooms), ("livekit_participant_total", &telemetry.participants)]
    {
        // Writing to a String cannot fail.
        let _ = writeln!(page, "# TYPE {name} gauge\n{name}{{{labels}}} {}", gauge.load(Ordering::Relaxed));
    }
    let Some(shards) = &telemetry.shards else { return };
    let totals = (shards.totals)();
    let mut family = |name: &str, rows: &[(&str, u64)]| {
        let _ = writeln!(page, "# TYPE {name} counter");
        for (row, value) in rows {
            let _ = writeln!(page, "{name}{{{labels},{row},country=\"\"}} {value}");
        }
    };
    family(
        "livekit_packet_total",
        &[
            ("direction=\"outgoing\",transmission=\"initial\"", totals.packets_sent),
            ("direction=\"outgoing\",transmission=\"retransmit\"", totals.packets_retransmitted),
        ],
    );
    family("livekit_pli_total", &[("direction=\"outgoing\"", totals.plis_sent)]);
}
