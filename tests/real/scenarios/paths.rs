//! Every kind of recipient reaches its own backend without passing through the frontend's lmtpd.

use crate::clients::mail::Session;
use crate::murder::Murder;
use crate::postfix::Chroot;
use crate::world::{Mta, World, message};
use crate::{Done, ensure, run, sandbox};

/// Mailboxes of the run, each with its first backend.
const MAILBOXES: [(usize, &str); 8] = [
    (0, "user/jane"),
    (0, "user/jane/Work"),
    (0, "user/o.brien"),
    (0, "user/carol@example.net"),
    (1, "user/max"),
    (1, "user/anna-lena"),
    (1, "user/bob@example.net"),
    (1, "shared/news"),
];

/// Creates them, and waits until the frontend's list has the last one.
pub fn populate(murder: &Murder) -> Done {
    for (backend, mailbox) in MAILBOXES {
        murder.backends[backend].admin()?.command(&format!("CREATE {mailbox}"))?;
    }
    // A message for `+Work` goes to the folder, and one for the shared folder is accepted at all, only with
    // the right p for anyone.
    murder.backends[0].admin()?.command("SETACL user/jane/Work anyone p")?;
    murder.backends[1].admin()?.command("SETACL shared/news anyone lrsp")?;
    let mut frontend = murder.frontend.admin()?;
    sandbox::poll("the frontend to have all mailboxes", 30, || {
        let rights = frontend.command("GETACL shared/news")?;
        let known = frontend.command("LIST \"\" *")?.len() >= MAILBOXES.len();
        let posting = rights.iter().any(|line| line.contains("anyone lrsp"));
        Ok((known && posting).then_some(()))
    })
}

/// Each form of address, alone.
pub fn each_on_its_backend<M: Mta>(world: &World<M>) -> Done {
    let [be1, be2] = &world.murder.backends;
    let since = world.logs.mark();
    world.arrives("jane@example.org", be1, "jane", "INBOX")?;
    world.arrives("jane+Work@example.org", be1, "jane", "INBOX/Work")?;
    world.arrives("jane+Nowhere@example.org", be1, "jane", "INBOX")?;
    world.arrives("o.brien@example.org", be1, "o.brien", "INBOX")?;
    world.arrives("carol@example.net", be1, "carol@example.net", "INBOX")?;
    world.arrives("bob@example.net", be2, "bob@example.net", "INBOX")?;
    world.arrives("anna-lena@example.org", be2, "anna-lena", "INBOX")?;
    world.arrives("Jane@example.org", be1, "jane", "INBOX")?;
    world.arrives("jane@Example.ORG", be1, "jane", "INBOX")?;
    world.arrives("MAX@EXAMPLE.ORG", be2, "max", "INBOX")?;
    world.arrives("Bob@Example.Net", be2, "bob@example.net", "INBOX")?;
    world.arrives("Jane+Work@Example.Org", be1, "jane", "INBOX/Work")?;
    world.arrives("+shared/news@example.org", be2, "", "shared/news")?;
    let frontend = world.logs.since(since, "fe1/lmtp");
    ensure!(frontend.is_empty(), "the frontend's lmtpd was asked: {frontend:?}");

    // lmtpd does log what it receives, so an empty log proves that it received nothing.
    let message = message("by-the-frontend");
    let mut lmtpd = Session::lmtp(&world.murder.frontend.lmtp_socket())?;
    let outcome = lmtpd.send(&message.sender, &["max@example.org"], &message.text)?;
    let delivered = matches!(&outcome.message[..], [reply] if reply.code == 250);
    ensure!(delivered, "the frontend's lmtpd cannot proxy: {outcome:?}");
    world.logs.wait("a line of the frontend's lmtpd", since, 10, |lines| {
        lines.iter().any(|line| line.program == "fe1/lmtp").then_some(())
    })
}

/// One message for recipients on both backends.
pub fn one_message_for_both<M: Mta>(world: &World<M>) -> Done {
    let [be1, be2] = &world.murder.backends;
    let to = ["jane@example.org", "bob@example.net", "o.brien@example.org", "max@example.org"];
    let queued = world.send(&to)?;
    let attempts = world.delivered(&queued)?;
    let mut tried: Vec<&str> = attempts.iter().map(|attempt| attempt.recipient.as_str()).collect();
    tried.sort_by_key(|recipient| to.iter().position(|wanted| wanted == recipient));
    ensure!(tried == to, "not each recipient once: {attempts:?}");
    for (backend, user) in [(be1, "jane"), (be1, "o.brien"), (be2, "bob@example.net"), (be2, "max")]
    {
        world.holds_once(backend, user, "INBOX", &queued.id)?;
    }
    Ok(())
}

/// The maps, read with Postfix' own client.
pub fn postmap_reads_every_map() -> Done {
    let query = |map: &str, key: &str| {
        let table = format!("socketmap:unix:/run/murder-route:{map}");
        let mut postmap = sandbox::command("postmap");
        run(postmap.args(["-q", key, &table])).map(|answer| answer.trim_end().to_owned())
    };
    for (map, key, answer) in [
        ("lmtp", "jane@example.org", "lmtp:inet:127.0.1.11:2003"),
        ("host", "bob@example.net", "127.0.1.12"),
        ("canonical", "Jane+Work@Example.Org", "jane+Work@example.org"),
    ] {
        let got = query(map, key)?;
        ensure!(got == answer, "{map}, {key}: {got:?} instead of {answer:?}");
    }
    ensure!(!query("recipient", "jane+Work@example.org")?.is_empty(), "recipient: jane is missing");
    for (map, key) in [
        ("recipient", "nobody@example.org"),
        ("canonical", "jane@example.org"),
        ("lmtp", "jane@elsewhere.test"),
        ("lmtp", "*"),
    ] {
        // postmap exits with 1 and prints nothing if there is no entry.
        let got = query(map, key).err().map(|e| e.to_string()).unwrap_or_default();
        ensure!(got.contains("exit status: 1\n") && got.ends_with('\n'), "{map}, {key}: {got:?}");
    }
    Ok(())
}

/// Debian runs the processes that ask the maps and those that deliver in a chroot.
pub fn chrooted_as_debian_ships_it(world: &mut World) -> Done {
    world.mail_server.restart(Chroot::AsDebian)?;
    let done = each_on_its_backend(world).and_then(|()| world.refused("nobody@example.org"));
    world.mail_server.restart(Chroot::No)?;
    done
}
