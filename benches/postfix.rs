//! Look-ups in the replica, in one thread, against Postfix' own `lmdb:` table of the same recipients, read
//! by `postmap -q -`.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use murder_route::config::{Overrides, Settings, SourceName};
use murder_route::os::map;
use murder_route::replica::read::offline::OfflineReplica;
use murder_route::replica::store::ReplicaList;
use murder_route::resolver::Resolver;

use crate::list::{self, FOLDERS, Random, Site, USERS};
use crate::lookups::{each, look_up, name, route, time};
use crate::sandbox::{self, STATE};
use crate::table::{Goal, Table, median, ratio};
use crate::{Done, mupdate, replica, run};

/// Slices of each kind, and the lookups of one.
const ROUNDS: usize = 15;
const COUNT: usize = 100_000;

/// Value of every recipient in a table of Postfix; as long as our answers.
const VALUE: &str = "lmtp:inet:[127.0.1.11]:2003";

pub fn measure(site: &Site, table: &mut Table) -> Done {
    map::guard();
    let dir = format!("{STATE}/replica-lookups");
    let _ = fs::remove_dir_all(&dir);
    replica::fill(&dir, USERS, FOLDERS.len())?;
    let list = ReplicaList::open(Path::new(&dir))?;
    // That server is never asked: there are no misses here.
    let conf = format!("{STATE}/postfix-imapd.conf");
    fs::write(&conf, fs::read_to_string(site.imapd_conf())? + &mupdate::client())?;
    let settings = Settings::load(&Overrides {
        imapd_conf: Some(conf.into()),
        sources: vec![SourceName::Replica],
        replica: Some(dir.clone().into()),
        domains: vec!["example.org".into()],
        ..Overrides::default()
    })?;
    let resolver = Resolver::new(settings, Some(OfflineReplica::open(Path::new(&dir), None)?));
    let postfix = Postfix::prepare("postmap")?;
    let lmdb = format!("lmdb:{}", postfix.table);

    let mut random = Random(19);
    let (mut looked_up, mut routed, mut peer) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let users: Vec<u32> = (0..COUNT).map(|_| random.user()).collect();
        let own = each(&users, name, |name| look_up(&list, name))?;
        let route = each(&users, |user| Ok(list::recipient(user)), |user| route(&resolver, user))?;
        let [theirs] = postfix.slices(&users, [&lmdb])?;
        // The first round is a warm-up.
        if round > 0 {
            looked_up.push(1e6 / own);
            routed.push(1e6 / route);
            peer.push(theirs * 1e6 / COUNT as f64);
        }
    }
    let theirs = median(peer.iter().copied());
    for (what, ours, goal) in
        [("lookup", &looked_up, Goal::AtMost(1.0)), ("route", &routed, Goal::None)]
    {
        let own = median(ours.iter().copied());
        let what = format!("{what} in the replica");
        table.against(what, "µs", own, ("Postfix' lmdb", theirs), ratio(ours, &peer), goal);
    }
    fs::remove_dir_all(&dir)?;
    Ok(())
}

/// A Postfix that is not running, and its table.
pub struct Postfix {
    conf: String,
    /// The table, and the text that it was made from.
    pub table: String,
    keys: String,
}

impl Postfix {
    /// Prepares it with its files in a directory of this name.
    pub fn prepare(name: &str) -> Done<Self> {
        let dir = format!("{STATE}/{name}");
        fs::create_dir_all(&dir)?;
        let main = "compatibility_level = 3.6\nlmdb_map_size = 1073741824\n\
                    queue_directory = /var/spool/postfix\nmail_owner = postfix\n";
        fs::write(format!("{dir}/main.cf"), main)?;
        fs::write(format!("{dir}/master.cf"), "")?;
        let postfix =
            Self { table: format!("{dir}/table"), keys: format!("{dir}/keys"), conf: dir };
        let mut source = BufWriter::new(File::create(&postfix.table)?);
        for user in 0..USERS {
            writeln!(source, "{} {VALUE}", list::recipient(user))?;
        }
        source.flush()?;
        run(&mut postfix.command(&[&format!("lmdb:{}", postfix.table)]))?;
        Ok(postfix)
    }

    /// Seconds for look-ups of these users in each table, minus the time of the same process without a
    /// table.
    pub fn slices<const N: usize>(&self, users: &[u32], tables: [&str; N]) -> Done<[f64; N]> {
        let mut keys = BufWriter::new(File::create(&self.keys)?);
        for user in users {
            writeln!(keys, "{}", list::recipient(*user))?;
        }
        keys.flush()?;
        let around = self.query(&format!("static:{VALUE}"))?;
        let mut seconds = [0.0; N];
        for (seconds, table) in seconds.iter_mut().zip(tables) {
            *seconds = self.query(table)?.saturating_sub(around).as_secs_f64();
        }
        Ok(seconds)
    }

    fn query(&self, table: &str) -> Done<Duration> {
        time(|| list::quiet(&mut self.command(&["-q", "-", table]), &self.keys))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = sandbox::command("postmap");
        command.args(["-c", &self.conf]).args(args);
        command
    }
}
