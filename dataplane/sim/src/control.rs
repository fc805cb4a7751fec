//! Control, played: complete specifications, one version after the other, from who is in the room and what is live.

use auralink_proto::{
    DataChannels, DtlsRole, ExtensionMap, ExtensionUri, Fingerprint, IceCredentials, MediaKind, Mid,
    PeerKeys, ReceiveSection, Rid, RoomId, SendSection, TrackId, TransportId, TransportSpec,
};

use crate::numbers::Numbers;
use crate::publish::{DEPENDENCY, LEVEL, MID, REPAIRED_RID, RID, RIDS, TWCC};

/// A line of `viewer` for media of the person in `seat`.
pub fn line_ssrc(viewer: u16, seat: usize, video: bool) -> u32 {
    0x4000_0000 + u32::from(viewer) * 256 + (seat as u32) * 4 + u32::from(video) * 2
}

/// The repair stream of that line.
pub fn repair_ssrc(media: u32) -> u32 {
    media + 1
}

pub fn line_mid(seat: usize, video: bool) -> Mid {
    let text = format!("{}{seat}", if video { "v" } else { "a" });
    Mid::new(text.as_bytes()).expect("a short mid")
}

/// One member as control knows it.
#[derive(Clone)]
pub struct Member {
    pub transport: TransportId,
    pub index: u16,
    pub version: u32,
    pub local_ice: IceCredentials,
    pub remote_ice: IceCredentials,
    pub remote_fingerprint: [u8; 32],
    /// Audio, video.
    pub tracks: [TrackId; 2],
    pub live: [bool; 2],
    pub muted: bool,
    pub numbers: Numbers,
}

fn extensions(numbers: &Numbers) -> ExtensionMap {
    let mut map = ExtensionMap::default();
    map.set(ExtensionUri::Mid, MID);
    map.set(ExtensionUri::Rid, RID);
    map.set(ExtensionUri::RepairedRid, REPAIRED_RID);
    map.set(ExtensionUri::AudioLevel, LEVEL);
    map.set(ExtensionUri::TransportCc, TWCC);
    if numbers.dependency {
        map.set(ExtensionUri::DependencyDescriptor, DEPENDENCY);
    }
    map
}

const fn kind(video: bool) -> MediaKind {
    if video { MediaKind::Video } else { MediaKind::Audio }
}

/// The specification of the member in `seat`, given everyone's seats.
pub fn spec(room: RoomId, seats: &[Option<Member>], seat: usize) -> Option<TransportSpec> {
    let member = seats.get(seat)?.as_ref()?;
    let receive = [false, true].map(|video| ReceiveSection {
        mid: Mid::new(if video { b"1" } else { b"0" }).expect("a short mid"),
        kind: kind(video),
        track: member.tracks[usize::from(video)],
        payloads: member.numbers.payloads(video).to_vec(),
        encrypted: false,
        extensions: extensions(&member.numbers),
        rids: if video {
            RIDS.iter().filter_map(|rid| Rid::new(rid.as_bytes())).collect()
        } else {
            Vec::new()
        },
        ssrcs: Vec::new(),
        muted: member.muted,
    });
    let others = seats.iter().enumerate().filter(|(other, _)| *other != seat);
    let send = others.flat_map(|(other, held)| {
        [false, true].map(|video| {
            let ssrc = line_ssrc(member.index, other, video);
            let track = held
                .as_ref()
                .filter(|held| held.live[usize::from(video)])
                .map(|held| held.tracks[usize::from(video)]);
            SendSection {
                mid: line_mid(other, video),
                kind: kind(video),
                ssrc,
                rtx_ssrc: video.then(|| repair_ssrc(ssrc)),
                payloads: member.numbers.payloads(video).to_vec(),
                extensions: extensions(&member.numbers),
                track,
            }
        })
    });
    Some(TransportSpec {
        id: member.transport,
        version: member.version,
        room,
        local_ice: member.local_ice.clone(),
        remote_ice: member.remote_ice.clone(),
        remote_fingerprint: Fingerprint(member.remote_fingerprint),
        remote_keys: PeerKeys::Ecdsa,
        dtls_role: DtlsRole::Server,
        cname: format!("client{}", member.index),
        send: send.collect(),
        receive: receive.to_vec(),
        data: DataChannels::Off,
    })
}
