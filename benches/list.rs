//! The list for all measurements: 1,000,000 records, written by Cyrus.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Stdio;

use murder_route::config::{MissPolicy, Overrides, Settings};

use crate::sandbox::{self, STATE, User};
use crate::{Done, ensure, run};

/// The cached file, with a number that is raised when the recipe below changes.
const NAME: &str = "bench-mailboxes-1.db";

pub const USERS: u32 = 200_000;
pub const FOLDERS: [&str; 5] = ["", "Archive", "Drafts", "Sent", "Trash"];

/// Number of records rewritten after the others, in transactions of 100: a list in use is not freshly
/// packed.
const UPDATES: usize = 100_000;

const DOMAIN: &str = "example.org";

/// The frontend without its Murder: a configuration and the list.
pub struct Site {
    pub cyrus: User,
}

/// Directory of the Cyrus of the bench, the same inside and outside of the root.
pub const DIR: &str = "/run/murder/fe";

impl Site {
    /// Copies the cached list, which is created first if it does not exist, to its place on the frontend.
    /// That is in the run's tmpfs, so no process waits for a disk.
    pub fn prepare(cached_root: &Path) -> Done<Self> {
        let site = Self { cyrus: sandbox::user("cyrus")? };
        for sub in ["", "/conf", "/conf/db", "/conf/socket", "/conf/proc", "/conf/lock", "/spool"] {
            sandbox::make_dir(&format!("{DIR}{sub}"), site.cyrus)?;
        }
        // No mupdate_server: a miss, of which there are none here, would wait for it.
        let conf = format!(
            "configdirectory: {DIR}/conf\npartition-default: {DIR}/spool\n\
             defaultpartition: default\nadmins: cyrus\nservername: 127.0.1.21\n\
             virtdomains: userid\ndefaultdomain: {DOMAIN}\nunixhierarchysep: yes\n"
        );
        fs::write(site.imapd_conf(), conf)?;

        let cached = cached_root.parent().ok_or("the cached root has no parent")?.join(NAME);
        if !cached.exists() {
            println!("writing a list of 1,000,000 records with cyr_dbtool");
            let new = format!("{DIR}/new.db");
            site.write_list(&new)?;
            // A file under the final name is complete.
            let part = cached.with_extension("part");
            fs::copy(&new, &part)?;
            fs::rename(&part, &cached)?;
            fs::remove_file(&new)?;
        }
        site.copy(&cached, &site.mailboxes_db())?;
        Ok(site)
    }

    pub fn imapd_conf(&self) -> String {
        format!("{DIR}/imapd.conf")
    }

    pub fn mailboxes_db(&self) -> String {
        format!("{DIR}/conf/mailboxes.db")
    }

    /// A copy that Cyrus may write.
    pub fn copy(&self, from: impl AsRef<Path>, to: &str) -> Done {
        fs::copy(from.as_ref(), to)?;
        std::os::unix::fs::chown(to, Some(self.cyrus.uid), Some(self.cyrus.gid))?;
        Ok(())
    }

    /// The settings of `murder-route`.
    pub fn settings(&self, mailboxes_db: &str) -> Done<Settings> {
        let settings = Settings::load(&Overrides {
            imapd_conf: Some(self.imapd_conf().into()),
            mailboxes_db: Some(mailboxes_db.into()),
            misses: Some(MissPolicy::Final),
            domains: vec![DOMAIN.into()],
            ..Overrides::default()
        })?;
        Ok(settings)
    }

    /// `cyr_dbtool … batch` on a list. It reads commands from standard input.
    pub fn dbtool(&self, list: &str) -> std::process::Command {
        let mut command = sandbox::command("cyr_dbtool");
        command.args(["-n", "-C", &self.imapd_conf(), list, "twoskip", "batch"]);
        command
    }

    fn write_list(&self, path: &str) -> Done {
        let _ = fs::remove_file(path);
        let script = format!("{STATE}/script");
        let mut out = BufWriter::new(File::create(&script)?);
        let mut random = Random(1);
        let mut records: Vec<(u32, usize)> =
            (0..USERS).flat_map(|user| (0..FOLDERS.len()).map(move |f| (user, f))).collect();
        random.shuffle(&mut records);
        writeln!(out, "BEGIN")?;
        for (user, folder) in &records {
            set(&mut out, *user, *folder, 1)?;
        }
        writeln!(out, "COMMIT")?;
        random.shuffle(&mut records);
        for transaction in records[..UPDATES].chunks(100) {
            writeln!(out, "BEGIN")?;
            for (user, folder) in transaction {
                set(&mut out, *user, *folder, 2)?;
            }
            writeln!(out, "COMMIT")?;
        }
        out.into_inner()?.sync_data()?;
        let complaint = run(self.dbtool(path).stdin(File::open(&script)?))?;
        ensure!(complaint.is_empty(), "cyr_dbtool: {complaint}");
        fs::remove_file(&script)?;
        Ok(())
    }
}

/// Appends the command that writes a record. `version` makes it differ from the previous one.
pub fn set(out: &mut impl Write, user: u32, folder: usize, version: u32) -> std::io::Result<()> {
    let key = key(user, folder);
    // In the form that a frontend of 3.6 and a master store.
    let value = format!(
        "%(T er P default S {} M {} A %({} lrswipkxtecdan))",
        server(user),
        1_700_000_000 + version,
        name(user)
    );
    write!(out, "SET {{{}+}}\r\n{key} {{{}+}}\r\n{value}\n", key.len(), value.len())
}

/// Appends the command that reads the record of a user's INBOX.
pub fn get(out: &mut impl Write, user: u32) -> std::io::Result<()> {
    let key = key(user, 0);
    write!(out, "GET {{{}+}}\r\n{key}\n", key.len())
}

/// The key of a folder, as Cyrus 3.6 writes it.
fn key(user: u32, folder: usize) -> String {
    let name = name(user);
    match FOLDERS[folder] {
        "" => format!("Nuser\u{1f}{name}"),
        folder => format!("Nuser\u{1f}{name}\u{1f}{folder}"),
    }
}

/// A user's name. Successive numbers are not neighbours in the list.
pub fn name(user: u32) -> String {
    // An odd factor: the names are distinct.
    format!("u{:07x}", user.wrapping_mul(0x9e37_79b1) & 0x0fff_ffff)
}

/// The backend of a user. smmapd connects to its TCP port 12345, which has no listener on these addresses,
/// so the connection is refused at once.
pub fn server(user: u32) -> String {
    format!("127.0.1.{}", 11 + user % 5)
}

/// A user's address.
pub fn recipient(user: u32) -> String {
    format!("{}@{DOMAIN}", name(user))
}

/// xorshift64: deterministic, so that each run measures the same look-ups.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % n
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// A random existing user.
    pub fn user(&mut self) -> u32 {
        self.below(USERS as usize) as u32
    }
}

/// A process that reads a prepared script and whose output is discarded.
pub fn quiet(command: &mut std::process::Command, script: &str) -> Done {
    let status = command.stdin(File::open(script)?).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
