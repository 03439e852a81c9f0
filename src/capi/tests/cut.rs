//! A C program with eight threads that look up while a list is truncated and rewritten in place, as
//! `: > mailboxes.db` and `cp` do, and Cyrus never does.

use std::os::unix::process::ExitStatusExt as _;
use std::thread;

use super::*;

const THREADS: &str = "8";
const NAMES: u64 = 5000;
const ROUNDS: u64 = 400;

/// Truncates and rewrites the file in place, while the program looks up in it.
fn look_up_while_cut(config: &Path, file: &Path, what: &str) {
    let program = build::program("cut", "cc", &["-std=c99", "-O2"], &build::library());
    let whole = fs::read(file).unwrap();
    let mut child = Command::new(program)
        .arg(config)
        .args([THREADS, &NAMES.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut random = Random(11);
    for round in 0..ROUNDS {
        let mut cut = File::options().write(true).open(file).unwrap();
        match round % 4 {
            0 => cut.set_len(0).unwrap(),
            1 => cut.set_len(4096 * (1 + random.below(4))).unwrap(),
            _ => cut.set_len(random.below(whole.len() as u64)).unwrap(),
        }
        thread::sleep(Duration::from_millis([0, 1, 3][round as usize % 3]));
        for piece in whole.chunks(16 << 10) {
            cut.write_all(piece).unwrap();
        }
        thread::sleep(Duration::from_millis(random.below(6)));
    }
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), None, "{what}: killed by a signal");
    assert!(output.status.success(), "{what}: {}", build::said(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{what}: {ROUNDS} cuts, 0 killed; {}", said.trim());
    let counts: Vec<u64> = said.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(counts.iter().all(|count| *count > 100), "{what}: {said}");
}

#[test]
fn mailboxes_db_cut_in_place_kills_no_process() {
    for layout in [Layout::Twoskip, Layout::Twom { checksums: true }] {
        let directory = tempfile::tempdir().unwrap();
        let list = directory.path().join("mailboxes.db");
        let config = directory.path().join("murder-route.toml");
        // Misses are final, so that any name missed would be unknown.
        fs::write(
            &config,
            "mailboxes-db = \"mailboxes.db\"\ndomains = [\"example.org\"]\nmisses = \"final\"\n",
        )
        .unwrap();
        let mut writer = Writer::new(layout, Random(7), 1, |a, b| Order::Raw.compare(a, b));
        for n in 0..NAMES {
            writer.put(&key(&format!("user.k{n}")), &value("be1.example.org"));
        }
        writer.commit();
        fs::write(&list, &writer.file).unwrap();
        look_up_while_cut(&config, &list, &format!("{layout:?}"));
    }
}

#[test]
fn replica_cut_in_place_kills_no_process() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("murder-route.toml");
    let mut place = ReplicaWriter::open(&directory.path().join("r")).unwrap();
    let mut change = place.begin().unwrap();
    for n in 0..NAMES {
        let record = Record {
            state: State::Active,
            server: Some("be1.example.org".into()),
            partition: "default".into(),
            anonymous: AnonymousRights::default(),
        };
        let name = MailboxName::new(format!("user.k{n}")).unwrap();
        change.put(&name, &record, ModTime::NOT_LATELY).unwrap();
    }
    let now = Some(SystemTime::now());
    let about = ReplicaMeta { synchronised: now, as_of: now, ..ReplicaMeta::default() };
    change.set_about(&about).unwrap();
    change.commit().unwrap();
    drop(place);
    fs::write(
        &config,
        "source = \"replica\"\ndomains = [\"example.org\"]\n[replica]\ndirectory = \"r\"\n\
         [mupdate]\nservers = [\"127.0.0.1:1\"]\n[[listen]]\nendpoint = \"unix:nowhere\"\n",
    )
    .unwrap();
    look_up_while_cut(&config, &directory.path().join("r/data.mdb"), "replica");
}
