//! The library as a table of Postfix, `murder:/etc/murder-route.toml`, in Debian's chroot, with a list that
//! only Cyrus and root may read.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::beside::{becomes_well, switch};
use super::without_cyrus::THOROUGH;
use super::{cut, moving, paths, refusals};
use crate::exchanger::{self, Exchanger};
use crate::library::{self, LIBRARY};
use crate::logs::Mark;
use crate::postfix::{Chroot, DOMAINS};
use crate::releases::is_wanted;
use crate::report::Report;
use crate::router::{SOCKET, Setup, cyrus_release};
use crate::sandbox::{self, STATE, in_root};
use crate::world::World;
use crate::{Done, ensure, run};

/// Name in main.cf.
const TABLE: &str = "murder:/etc/murder-route.toml";

/// The same file, in the root.
const CONFIGURATION: &str = "/etc/murder-route.toml";

/// A socket of the daemon inside the chroot, as seen from outside.
const IN_CHROOT: &str = "/var/spool/postfix/murder-route/socket";

/// Runs them.
pub fn run_in(world: &mut World, report: &mut Report) {
    let (logs, release) = (world.logs.clone(), world.release);
    let mut scenario = |name: &str, run: fn(&mut World) -> Done| {
        let name = format!("the table: {name}");
        if is_wanted(&name) {
            report.scenario(&name, &logs, || with_the_table(world, run));
        }
    };
    scenario("every recipient on its own backend, from the chroot", each_on_its_backend);
    scenario("each map alone refuses and defers", each_map_by_itself);
    scenario("known recipients are answered without the daemon", without_the_daemon);
    scenario("the list is repacked", list_repacked);
    if release == THOROUGH {
        scenario("through proxymap, which may not read the list", through_proxymap);
        scenario("the list is cut off in place", list_cut_off);
    }
    scenario("a host without Cyrus reads the replica", from_the_replica);
    scenario("a bad configuration is a temporary error", bad_configuration);
}

/// Runs a scenario with Postfix as Debian ships it and only the table of ours, and restores everything
/// afterwards.
fn with_the_table(world: &mut World, scenario: fn(&mut World) -> Done) -> Done {
    let before = world.setup.clone();
    let seen = begin(world).and_then(|()| scenario(world));
    switch(world, before)?;
    world.mail_server.restart(Chroot::No)?;
    seen
}

fn begin(world: &mut World) -> Done {
    library::install_for_postfix(world.release)?;
    configure(world)?;
    sandbox::make_dir(&in_root("/var/spool/postfix/murder-route"), world.murder.cyrus)?;
    let daemon = settings(world, &[SOCKET, &in_root(IN_CHROOT)]);
    let file = format!("{STATE}/murder-route-table.toml");
    fs::write(&file, daemon)?;
    switch(world, Setup::new(&["--config", &file], world.murder.cyrus))?;

    world.mail_server.forget_the_murder()?;
    let mut main_cf = OpenOptions::new().append(true).open(in_root("/etc/postfix/main.cf"))?;
    writeln!(main_cf, "relay_domains = {}", DOMAINS.join(", "))?;
    writeln!(main_cf, "relay_recipient_maps =")?;
    writeln!(main_cf, "transport_maps = {TABLE}")?;
    writeln!(main_cf, "recipient_canonical_maps = {TABLE}:canonical")?;
    writeln!(main_cf, "recipient_canonical_classes = envelope_recipient")?;
    // The default of Debian in all releases but sid.
    for service in ["smtp/unix", "lmtp/unix", "rewrite/unix", "cleanup/unix"] {
        run(sandbox::command("postconf").args(["-F", &format!("{service}/chroot=y")]))?;
    }
    let smtpd = run(sandbox::command("postconf").args(["-F", "*/inet/chroot"]))?;
    let smtpd = smtpd.split(" = ").next().unwrap_or_default();
    run(sandbox::command("postconf").args(["-F", &format!("{smtpd}=y")]))?;
    world.mail_server.restart_as_it_is()
}

/// Writes the files that the table reads.
fn configure(world: &World) -> Done {
    Ok(fs::write(in_root(CONFIGURATION), settings(world, &[SOCKET, IN_CHROOT]))?)
}

fn settings(world: &World, sockets: &[&str]) -> String {
    let settings = format!(
        "{}imapd-conf = {:?}\ndomains = {DOMAINS:?}\n",
        cyrus_release(world.release),
        world.murder.frontend.imapd_conf(),
    );
    settings + &listening(sockets)
}

fn listening(sockets: &[&str]) -> String {
    let listen = |socket| format!("\n[[listen]]\nendpoint = \"unix:{socket}\"\n");
    sockets.iter().map(listen).collect()
}

/// Output of `postmap -q`: the answer, or `None` if there is none.
fn postmap(table: &str, key: &str) -> Done<Option<String>> {
    let output = sandbox::command("postmap").args(["-q", key, table]).output()?;
    let said = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => Ok(Some(said)),
        Some(1) if complaint.is_empty() => Ok(None),
        _ => Err(format!("postmap -q {key} {table}: {}: {complaint}", output.status).into()),
    }
}

/// Processes of a Postfix program, each with its root and its user.
fn processes(program: &str) -> Done<Vec<(String, u32)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let Ok(command) = fs::read(path.join("cmdline")) else { continue };
        if command.starts_with(format!("{program}\0").as_bytes())
            && let (Ok(root), Ok(metadata)) = (fs::read_link(path.join("root")), path.metadata())
        {
            found.push((root.display().to_string(), metadata.uid()));
        }
    }
    Ok(found)
}

fn each_on_its_backend(world: &mut World) -> Done {
    let types = run(sandbox::command("postconf").arg("-m"))?;
    ensure!(types.lines().any(|known| known == "murder"), "postconf -m: {types}");
    for (map, key, answer) in [
        ("", "jane@example.org", Some("lmtp:inet:127.0.1.11:2003")),
        (":lmtp", "Bob+x@Example.NET", Some("lmtp:inet:127.0.1.12:2003")),
        ("", "nobody@example.org", Some("error:5.1.1 User unknown")),
        ("", "jane@elsewhere.test", None),
        ("", "*", None),
        (":host", "bob@example.net", Some("127.0.1.12")),
        (":recipient", "jane@example.org", Some("jane@example.org")),
        (":recipient", "nobody@example.org", None),
        (":canonical", "Jane+Work@Example.Org", Some("jane+Work@example.org")),
        (":canonical", "jane@example.org", None),
    ] {
        let got = postmap(&format!("{TABLE}{map}"), key)?;
        ensure!(got.as_deref() == answer, "{map}, {key}: {got:?} instead of {answer:?}");
    }

    // The precondition: only Cyrus and root may read the list, and it is outside of the queue directory.
    let list = world.murder.frontend.mailboxes_db();
    fs::set_permissions(&list, Permissions::from_mode(0o600))?;
    paths::each_on_its_backend(world)?;
    paths::one_message_for_both(world)?;
    let mode = fs::metadata(&list)?.mode() & 0o777;
    ensure!(mode == 0o600, "the list has mode {mode:o}");
    let postfix = sandbox::user("postfix")?;
    for program in ["trivial-rewrite", "smtpd"] {
        let running = processes(program)?;
        let jailed = |(root, uid): &(String, u32)| {
            root.ends_with("/var/spool/postfix") && *uid == postfix.uid
        };
        ensure!(!running.is_empty() && running.iter().all(jailed), "{program}: {running:?}");
    }

    refusals::unknown_is_refused_at_rcpt(world)?;
    refusals::reserved_is_put_off(world)?;
    refusals::foreign_addresses_pass_untouched(world)?;
    moving::created_is_known_at_once(world)?;
    moving::renamed_follows_its_name(world)?;
    moving::deleted_is_refused(world)
}

/// One map in use at a time, so that no map hides another.
fn each_map_by_itself(world: &mut World) -> Done {
    for (settings, known, reserved, in_doubt) in [
        (&["recipient_canonical_maps="][..], 250, 450, 450),
        (
            &[
                "recipient_canonical_maps=",
                "transport_maps=",
                "relay_recipient_maps=murder:/etc/murder-route.toml:recipient",
            ],
            250,
            451,
            451,
        ),
    ] {
        for setting in settings {
            run(sandbox::command("postconf").args(["-e", setting]))?;
        }
        world.mail_server.restart_as_it_is()?;
        let says = |world: &World, recipient: &str, code: u16| -> Done {
            let reply = world.rcpt(recipient)?;
            let context = || format!("{settings:?}: {recipient}: {reply} instead of {code}");
            if reply.code == code { Ok(()) } else { Err(context().into()) }
        };
        says(world, "jane@example.org", known)?;
        says(world, "Bob+x@Example.NET", known)?;
        says(world, "nobody@example.org", 550)?;
        says(world, "friend@elsewhere.test", 250)?;

        let mut master = world.murder.mupdate()?;
        master.reserve("user.putoff", "127.0.1.11!default")?;
        let seen = sandbox::poll("the reservation to be seen", 20, || {
            let reason = world.setup.lookup_one("putoff@example.org")?.reason;
            Ok(reason.contains("reserved").then_some(()))
        });
        let seen = seen.and_then(|()| says(world, "putoff@example.org", reserved));
        master.delete("user.putoff")?;
        seen?;

        let since = world.logs.mark();
        world.daemon.stop()?;
        let seen = says(world, "jane@example.org", known)
            .and_then(|()| says(world, "nobody@example.org", in_doubt))
            .and_then(|()| says(world, "friend@elsewhere.test", 250));
        world.daemon.resume()?;
        seen?;
        asked_in_vain(world, since)?;
        says(world, "someone.else@example.org", 550)?;
    }
    Ok(())
}

/// Recipients in the list are answered; others are in doubt.
fn without_the_daemon(world: &mut World) -> Done {
    let since = world.logs.mark();
    world.daemon.stop()?;
    paths::each_on_its_backend(world)?;
    world.put_off("nobody@example.org")?;
    asked_in_vain(world, since)?;
    // Without look-ups in the list.
    refusals::foreign_addresses_pass_untouched(world)?;
    // The daemon is back, and the same processes ask it again.
    world.daemon.resume()?;
    world.refused("nobody@example.org")
}

/// Waits for the reason in the log.
fn asked_in_vain(world: &World, since: Mark) -> Done {
    let said = world.logs.wait("the reason to be logged", since, 10, |lines| {
        let why = |text: &str| text.contains(TABLE) && text.contains("the daemon at");
        lines.iter().map(|line| line.text.clone()).find(|text| why(text))
    })?;
    ensure!(said.contains("/murder-route/socket: "), "{said}");
    Ok(())
}

/// Cyrus replaces the list by another file, which processes in the chroot may not open.
fn list_repacked(world: &mut World) -> Done {
    let [be1, be2] = &world.murder.backends;
    let list = world.murder.frontend.mailboxes_db();
    world.arrives("jane@example.org", be1, "jane", "INBOX")?;
    for round in 0..2 {
        let before = fs::metadata(&list)?;
        let since = world.logs.mark();
        let mut dbtool = sandbox::command("cyr_dbtool");
        dbtool.args(["-C", &world.murder.frontend.imapd_conf(), &list, "twoskip", "repack"]);
        run(&mut dbtool)?;
        let after = fs::metadata(&list)?;
        ensure!(after.ino() != before.ino(), "repack made no new file");
        ensure!(after.mode() & 0o077 == 0, "the new list has mode {:o}", after.mode());
        // At once, through the daemon.
        world.arrives("bob@example.net", be2, "bob@example.net", "INBOX")?;
        world.arrives("jane+Work@example.org", be1, "jane", "INBOX/Work")?;
        world.refused("nobody@example.org")?;
        restarted(world, since, "trivial-rewrite")?;
        // From the new list, by restarted processes.
        world.daemon.stop()?;
        let known = world
            .arrives("anna-lena@example.org", be2, "anna-lena", "INBOX")
            .and_then(|()| world.arrives("Jane@Example.org", be1, "jane", "INBOX"))
            .and_then(|()| world.put_off("nobody@example.org"));
        world.daemon.resume()?;
        known.map_err(|e| format!("repacked {round} more times, without the daemon: {e}"))?;
    }
    world.refused("nobody@example.org")
}

fn restarted(world: &World, since: Mark, program: &str) -> Done {
    let program = format!("postfix/{program}");
    world.logs.wait(&format!("{program} to restart"), since, 30, |lines| {
        let says = |text: &str| text.contains(TABLE) && text.contains("has changed -- restarting");
        lines.iter().any(|line| line.program == program && says(&line.text)).then_some(())
    })
}

/// proxymap opens the table as user postfix: it asks the daemon about all recipients, or reads a list that
/// this user may read.
fn through_proxymap(world: &mut World) -> Done {
    let list = world.murder.frontend.mailboxes_db();
    fs::set_permissions(&list, Permissions::from_mode(0o600))?;
    for (setting, map) in [("transport_maps", ""), ("recipient_canonical_maps", ":canonical")] {
        let setting = format!("{setting}=proxy:{TABLE}{map}");
        run(sandbox::command("postconf").args(["-e", &setting]))?;
    }
    world.mail_server.restart_as_it_is()?;
    paths::each_on_its_backend(world)?;
    paths::one_message_for_both(world)?;
    refusals::unknown_is_refused_at_rcpt(world)?;
    refusals::foreign_addresses_pass_untouched(world)?;
    world.daemon.stop()?;
    let closed = world.put_off("jane@example.org");
    let seen = closed.and_then(|()| {
        fs::set_permissions(&list, Permissions::from_mode(0o644))?;
        world.mail_server.restart_as_it_is()?;
        paths::each_on_its_backend(world)?;
        world.put_off("nobody@example.org")
    });
    world.daemon.resume()?;
    fs::set_permissions(&list, Permissions::from_mode(0o600))?;
    seen.map_err(|e| format!("without the daemon: {e}").into())
}

/// Truncated by an administrator, not by Cyrus. No process dies, and no message is lost.
fn list_cut_off(world: &mut World) -> Done {
    let copy = cut::Copy::make(world)?;
    let with_copy =
        |sockets: &[&str]| format!("mailboxes-db = {:?}\n{}", copy.file, settings(world, sockets));
    fs::write(in_root(CONFIGURATION), with_copy(&[SOCKET, IN_CHROOT]))?;
    let file = format!("{STATE}/murder-route-cut.toml");
    fs::write(&file, with_copy(&[SOCKET, &in_root(IN_CHROOT)]))?;
    switch(world, Setup::new(&["--config", &file], world.murder.cyrus))?;
    world.mail_server.restart_as_it_is()?;
    cut::while_messages_flow(world, &copy)
}

/// The daemon writes it as its own user, and no other user may enter its directory.
fn from_the_replica(world: &mut World) -> Done {
    let exchanger = Exchanger::make(&world.murder)?;
    exchanger.forget_replica()?;
    fs::set_permissions(exchanger::replica(), Permissions::from_mode(0o700))?;
    let login = "password-file = \"password\"\nallow-plaintext = true\n";
    let setup = |sockets: &[&str]| {
        let settings = format!("{login}{}", listening(sockets));
        exchanger.by_file("table", &settings)
    };
    setup(&[SOCKET, IN_CHROOT])?;
    fs::copy(format!("{STATE}/mx/table.toml"), in_root(CONFIGURATION))?;
    sandbox::make_dir(&in_root("/var/spool/postfix/murder-route"), exchanger::USER)?;
    switch(world, setup(&[SOCKET, &in_root(IN_CHROOT)])?)?;
    becomes_well(world)?;
    world.mail_server.restart_as_it_is()?;

    paths::each_on_its_backend(world)?;
    refusals::unknown_is_refused_at_rcpt(world)?;
    refusals::reserved_is_put_off(world)?;
    // Changes are visible in the file that was opened before the chroot.
    moving::created_is_known_at_once(world)?;
    sandbox::poll("the replica to have the new mailbox", 30, || {
        let records = world.setup.dump()?;
        Ok(records.iter().any(|record| record["mailbox"] == "user.newcomer").then_some(()))
    })?;
    world.daemon.stop()?;
    let [be1, be2] = &world.murder.backends;
    let known = world
        .arrives("newcomer@example.org", be2, "newcomer", "INBOX")
        .and_then(|()| world.arrives("Jane@example.org", be1, "jane", "INBOX"))
        .and_then(|()| world.put_off("nobody@example.org"));
    world.daemon.resume()?;
    known.map_err(|e| format!("without the daemon: {e}"))?;
    becomes_well(world)?;
    moving::renamed_follows_its_name(world)?;
    moving::deleted_is_refused(world)
}

/// With any error in the table, Postfix keeps running, reports it, and refuses no recipient.
fn bad_configuration(world: &mut World) -> Done {
    type Damage = fn() -> Done;
    let damages: [(&str, Damage, &str); 5] = [
        (
            "a misspelt setting",
            || Ok(fs::write(in_root(CONFIGURATION), "domain = \"example.org\"\n")?),
            "unknown field `domain`",
        ),
        ("not TOML", || Ok(fs::write(in_root(CONFIGURATION), "# \n\n[[[\n")?), "line 3, column"),
        (
            "an imapd.conf that does not exist",
            || Ok(fs::write(in_root(CONFIGURATION), "imapd-conf = \"/nowhere\"\n")?),
            "/nowhere: No such file",
        ),
        (
            "no file",
            || Ok(fs::remove_file(in_root(CONFIGURATION))?),
            "/etc/murder-route.toml: cannot read: No such file",
        ),
        ("no library", || Ok(fs::remove_file(in_root(LIBRARY))?), "unsupported dictionary type"),
    ];
    for (name, damage, says) in damages {
        let since = world.logs.mark();
        damage()?;
        world.mail_server.restart_as_it_is()?;
        let seen = soft(world, since, says);
        library::install_for_postfix(world.release)?;
        configure(world)?;
        world.mail_server.restart_as_it_is()?;
        let healed = world.recovers();
        seen.and(healed).map_err(|e| format!("{name}: {e}"))?;
    }
    ensure!(Path::new(&in_root(LIBRARY)).exists(), "the library is back");
    Ok(())
}

fn soft(world: &World, since: Mark, says: &str) -> Done {
    world.existing_are_not_refused()?;
    for recipient in ["jane@example.org", "nobody@example.org", "friend@elsewhere.test"] {
        world.put_off(recipient)?;
    }
    world.logs.wait(&format!("{says:?} in the log"), since, 10, |lines| {
        lines.iter().any(|line| line.text.contains(says)).then_some(())
    })?;
    // The rest of Postfix works: another table, and the queue.
    let types = run(sandbox::command("postconf").arg("-m"))?;
    ensure!(types.lines().any(|known| known == "regexp"), "postconf -m: {types}");
    run(sandbox::command("postqueue").arg("-p"))?;
    let died = world.logs.since(since, "postfix/master");
    let died: Vec<_> = died.iter().filter(|line| line.text.contains("killed")).collect();
    ensure!(died.is_empty(), "{died:?}");
    Ok(())
}
