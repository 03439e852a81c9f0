//! A name server (RFC 1035) for one client. Every name has one address and is its own mail exchanger,
//! except names below the configured zones, which get the configured answer.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

use crate::Done;

/// Answer for names in the zones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// As for any other name.
    Known,
    /// The name does not exist.
    NxDomain,
    /// The server fails.
    ServFail,
}

/// Record types with an answer; all others have no records.
const A: u16 = 1;
const MX: u16 = 15;

/// Answers until the run ends.
pub struct Dns {
    zone: Arc<Mutex<Zone>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Dns {
    /// Listens at `address`, port 53. Every name has the address `address_of_all`.
    pub fn listen(address: &str, zones: &'static [&'static str], all: Ipv4Addr) -> Done<Self> {
        let socket = UdpSocket::bind((address, 53)).map_err(|e| format!("{address}:53: {e}"))?;
        let zone = Arc::new(Mutex::new(Zone::Known));
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (now, names) = (Arc::clone(&zone), Arc::clone(&asked));
        std::thread::spawn(move || {
            let mut packet = [0; 1500];
            while let Ok((length, peer)) = socket.recv_from(&mut packet) {
                let zone = *now.lock().unwrap_or_else(PoisonError::into_inner);
                let Some((name, answer)) = answer(&packet[..length], zones, zone, all) else {
                    continue;
                };
                names.lock().unwrap_or_else(PoisonError::into_inner).push(name);
                let _ = socket.send_to(&answer, peer);
            }
        });
        Ok(Self { zone, asked })
    }

    /// Sets the answer for the zones.
    pub fn set(&self, zone: Zone) {
        *self.zone.lock().unwrap_or_else(PoisonError::into_inner) = zone;
    }

    /// Returns and clears the names asked for so far.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The requested name and the response; `None` for a packet that is not a query.
fn answer(query: &[u8], zones: &[&str], zone: Zone, all: Ipv4Addr) -> Option<(String, Vec<u8>)> {
    const HEADER: usize = 12;
    let mut at = HEADER;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes(query.get(at..at + 2)?.try_into().ok()?);
    let question = query.get(HEADER..at + 4)?;
    let name = labels.join(".");
    let is_ours = zones.iter().any(|zone| {
        name.strip_suffix(zone).is_some_and(|head| head.is_empty() || head.ends_with('.'))
    });
    let data = match kind {
        A => all.octets().to_vec(),
        // Preference, and a pointer to the name in the question.
        MX => vec![0, 10, 0xc0, 0x0c],
        _ => Vec::new(),
    };
    let (code, found) = match zone {
        Zone::NxDomain if is_ours => (3, false),
        Zone::ServFail if is_ours => (2, false),
        _ => (0, !data.is_empty()),
    };
    let mut answer = query.get(..2)?.to_vec();
    // A response with recursion.
    answer.extend([0x85, 0x80 | code, 0, 1, 0, u8::from(found), 0, 0, 0, 0]);
    answer.extend(question);
    if found {
        answer.extend([0xc0, 0x0c]);
        answer.extend(kind.to_be_bytes());
        // Class IN, TTL one minute.
        answer.extend([0, 1, 0, 0, 0, 60]);
        answer.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
        answer.extend(data);
    }
    Some((name, answer))
}
