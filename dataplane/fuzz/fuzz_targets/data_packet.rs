//! Data packets of clients: decoded, stamped and encoded again.
#![no_main]

use auralink_livekit::DataPacket;
use auralink_livekit::prost::Message as _;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(mut packet) = DataPacket::decode(bytes) {
        packet.participant_identity = "somebody".into();
        let encoded = packet.encode_to_vec();
        let again = DataPacket::decode(encoded.as_slice()).expect("what we encode decodes");
        assert_eq!(again.participant_identity, "somebody");
    }
});
