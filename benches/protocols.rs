//! Recipient verification: round trips by policy delegation and by milter, against those of the socketmap,
//! with the same daemon, socket, list and clients.

use std::sync::Arc;

use crate::list::Site;
use crate::round_trips::{Questions, connect, slice};
use crate::sandbox::{Process, STATE};
use crate::table::{Goal, Table, median, ratio};
use crate::{Done, daemon, processor, socketmap};

/// Slices of each protocol and number of connections.
const ROUNDS: usize = 15;

const CONNECTIONS: [usize; 2] = [1, 16];

/// Wanted share of the socketmap's rate.
const GOAL: f64 = 0.8;

pub fn measure(site: &Site, table: &mut Table) -> Done {
    let socket = format!("{STATE}/protocols");
    let output = format!("{STATE}/protocols.output");
    let serve = Process::start("serve", &mut daemon::command(site, &socket), output.as_ref())?;
    connect(&socket)?;
    let protocols =
        [("socketmap", socketmap::questions()), ("policy", policy()), ("milter", milter())];
    for (_, questions) in &protocols {
        slice(&socket, 16, questions)?;
    }
    for connections in CONNECTIONS {
        let mut rates = [const { Vec::new() }; 3];
        let mut busy = [(0, 0.0); 3];
        for round in 0..ROUNDS {
            // In rotating order, so that no protocol always follows the same one.
            for turn in 0..protocols.len() {
                let at = (round + turn) % protocols.len();
                let before = processor::of_process(serve.id())?;
                let slice = slice(&socket, connections, &protocols[at].1)?;
                rates[at].push(slice.requests as f64 / slice.seconds);
                busy[at].0 += slice.requests;
                busy[at].1 += processor::of_process(serve.id())? - before;
            }
        }
        let each = |at: usize| busy[at].1 * 1e6 / busy[at].0 as f64;
        let peer = protocols[0].0;
        let theirs = median(rates[0].iter().copied());
        for at in 1..protocols.len() {
            let what = format!("{}, connections: {connections}", protocols[at].0);
            let rate = median(rates[at].iter().copied());
            let ratio = ratio(&rates[at], &rates[0]);
            table.against(what.clone(), "/s", rate, (peer, theirs), ratio, Goal::AtLeast(GOAL));
            let what = format!("{what}, processor time each");
            let (own, theirs) = (each(at), each(0));
            table.against(what, "µs", own, (peer, theirs), own / theirs, Goal::None);
        }
    }
    serve.stop()
}

/// The request of smtpd of Postfix 3.7 at RCPT.
fn policy() -> Arc<Questions> {
    let request = |name: &str| {
        format!(
            "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\n\
             client_address=192.0.2.25\nclient_name=mail.sender.test\nclient_port=41952\n\
             reverse_client_name=mail.sender.test\nserver_address=192.0.2.31\nserver_port=25\n\
             helo_name=mail.sender.test\nsender=somebody@sender.test\n\
             recipient={name}@example.org\nrecipient_count=0\nqueue_id=\n\
             instance=7a31.65a7c1f2.8e14f.0\nsize=2048\netrn_domain=\nstress=\nsasl_method=\n\
             sasl_username=\nsasl_sender=\nccert_subject=\nccert_issuer=\nccert_fingerprint=\n\
             ccert_pubkey_fingerprint=\nencryption_protocol=TLSv1.3\n\
             encryption_cipher=TLS_AES_256_GCM_SHA384\nencryption_keysize=256\n\
             policy_context=\n\n"
        )
        .into_bytes()
    };
    Questions::new(b"", request, |answer| answer == b"action=DUNNO\n\n")
}

/// The packets of smtpd to a milter: its offer, and then the macros of a recipient and the recipient, in
/// one write.
fn milter() -> Arc<Questions> {
    const OFFER: &[u8] = b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff";
    let request = |name: &str| {
        let recipient = format!("{name}@example.org");
        let macros = format!(
            "Ri\x004WNnbl4Fy2z1xk\0{{rcpt_addr}}\0{recipient}\0\
             {{rcpt_host}}\0inet:127.0.1.11:2003\0{{rcpt_mailer}}\0lmtp\0"
        );
        let mut packets = Vec::new();
        for (command, data) in [(b'D', macros), (b'R', format!("<{recipient}>\0"))] {
            packets.extend((data.len() as u32 + 1).to_be_bytes());
            packets.push(command);
            packets.extend(data.bytes());
        }
        packets
    };
    Questions::new(OFFER, request, |answer| answer == b"\0\0\0\x01c")
}
