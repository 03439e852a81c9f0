//! C programs with eight threads that look up while a list is written.

use super::*;

const THREADS: &str = "8";
/// Number of look-ups of each thread. MURDER_ROUTE_LOOKUPS, which .ci/run sets, replaces it.
const LOOKUPS: &str = "100000";
/// Number of names that always exist, that move, and that come and go: see `threads.c`.
const NAMES: u64 = 5000;
const MOVING: u64 = 50;
const COMING: u64 = 500;

const HOSTS: [&str; 2] = ["be1.example.org", "be2.example.org"];

/// Calls `write` with 1, 2, 3 … until the program that looks up has ended, which must succeed.
fn look_up_while(config: &Path, mut write: impl FnMut(u64)) {
    let program = build::program("threads", "cc", &["-std=c99", "-O2"], &build::library());
    let lookups = std::env::var("MURDER_ROUTE_LOOKUPS").unwrap_or(LOOKUPS.to_owned());
    let mut child = Command::new(program)
        .arg(config)
        .args([THREADS, &lookups])
        .args([NAMES, MOVING, COMING, 10].map(|count| count.to_string()))
        .args(HOSTS)
        .arg("list")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut round = 0;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        round += 1;
        write(round);
    };
    assert!(status.success(), "{status}");
    assert!(round > 20, "{round} rounds");
}

/// Location of a name after this number of moves.
fn moved(times: u64) -> (String, &'static str) {
    (format!("v{times}"), HOSTS[times as usize % 2])
}

#[test]
fn eight_c_threads_are_right_while_cyrus_writes_and_repacks() {
    for layout in [Layout::Twoskip, Layout::Twom { checksums: true }] {
        let directory = tempfile::tempdir().unwrap();
        let list = directory.path().join("mailboxes.db");
        let config = directory.path().join("murder-route.toml");
        fs::write(&config, "mailboxes-db = \"mailboxes.db\"\ndomains = [\"example.org\"]\n")
            .unwrap();
        let order = |a: &[u8], b: &[u8]| Order::Raw.compare(a, b);
        let mut writer = Writer::new(layout, Random(7), 1, order);
        for n in 0..NAMES {
            writer.put(&key(&format!("user.k{n}")), &value(HOSTS[0]));
        }
        for n in 0..MOVING {
            writer.put(&key(&format!("user.m{n}")), &value_in("v0", HOSTS[0]));
        }
        writer.commit();
        let replace = |bytes: &[u8]| {
            let new = list.with_extension("NEW");
            fs::write(&new, bytes).unwrap();
            fs::rename(new, &list).unwrap();
        };
        replace(&writer.file);
        writer.journal.clear();
        let mut random = Random(3);
        look_up_while(&config, |round| {
            for _ in 0..1 + random.below(4) {
                let other = format!("user.o{}", random.below(COMING));
                match random.below(3) {
                    0 => writer.delete(&key(&other)),
                    _ => writer.put(&key(&other), &value(HOSTS[1])),
                }
                let known = format!("user.k{}", random.below(NAMES));
                writer.put(&key(&known), &value(HOSTS[0]));
            }
            let mover = format!("user.m{}", random.below(MOVING));
            let (partition, server) = moved(round);
            writer.put(&key(&mover), &value_in(&partition, server));
            match random.below(10) {
                0 => writer.abort(),
                _ => writer.commit(),
            }
            let mut file = File::options().write(true).open(&list).unwrap();
            for write in writer.journal.drain(..) {
                match write {
                    Write::At(offset, bytes) => {
                        file.seek(SeekFrom::Start(offset)).unwrap();
                        file.write_all(&bytes).unwrap();
                    }
                    Write::Truncate(size) => file.set_len(size).unwrap(),
                }
            }
            if round % 100 == 0 {
                writer = writer.repack();
                writer.journal.clear();
                replace(&writer.file);
            }
        });
    }
}

#[test]
fn eight_c_threads_are_right_while_the_daemon_writes_a_replica() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("murder-route.toml");
    let mut place = ReplicaWriter::open(&directory.path().join("r")).unwrap();
    let record = |partition: String, server: &str| Record {
        state: State::Active,
        server: Some(server.to_owned()),
        partition,
        anonymous: AnonymousRights::default(),
    };
    let mut random = Random(5);
    let mut write = |round: u64| {
        let mut change = place.begin().unwrap();
        let known = |n: u64| MailboxName::new(format!("user.k{n}")).unwrap();
        let all = if round == 0 { 0..NAMES } else { 0..0 };
        for n in all.chain((0..50).map(|_| random.below(NAMES))) {
            // Another record, at the same backend.
            change
                .put(&known(n), &record(format!("p{round}"), HOSTS[0]), ModTime::NOT_LATELY)
                .unwrap();
        }
        let movers = if round == 0 { 0..MOVING } else { 0..0 };
        for n in movers.chain([random.below(MOVING)]) {
            let (partition, server) = moved(round);
            let mover = MailboxName::new(format!("user.m{n}")).unwrap();
            change.put(&mover, &record(partition, server), ModTime::NOT_LATELY).unwrap();
        }
        let other = MailboxName::new(format!("user.o{}", random.below(COMING))).unwrap();
        match random.below(2) {
            0 => drop(change.delete(&other).unwrap()),
            _ => drop(
                change
                    .put(&other, &record("default".to_owned(), HOSTS[1]), ModTime::NOT_LATELY)
                    .unwrap(),
            ),
        }
        let now = SystemTime::now();
        let about = ReplicaMeta {
            synchronised: Some(now),
            as_of: Some(now),
            master: "mupdate.example.org".into(),
            release: "3.6.1".into(),
            ..ReplicaMeta::default()
        };
        change.set_about(&about).unwrap();
        change.commit().unwrap();
    };
    write(0);
    fs::write(
        &config,
        "source = \"replica\"\ndomains = [\"example.org\"]\n[replica]\ndirectory = \"r\"\n\
         [mupdate]\nservers = [\"127.0.0.1:1\"]\n[[listen]]\nendpoint = \"unix:nowhere\"\n",
    )
    .unwrap();
    look_up_while(&config, write);
}
