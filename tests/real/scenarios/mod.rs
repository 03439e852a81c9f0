//! The scenarios in the order in which they run: one Murder of one release and one mail server for all of
//! them.

mod asked;
mod beside;
mod churn;
mod comparison;
mod cut;
mod doctor;
mod exim;
mod faults;
mod function;
mod kills;
mod logins;
mod losses;
mod master;
mod migration;
mod milter;
mod moving;
mod newcomer;
mod outages;
mod paths;
mod posted;
mod postfix_logins;
mod race;
mod ready_postfix;
mod refusals;
mod resync;
mod sendmail;
mod table;
mod threads;
mod trouble;
mod units;
mod upheavals;
mod without_cyrus;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicU32;

use crate::clients::sink::Sink;
use crate::logs::Logs;
use crate::murder::Murder;
use crate::postfix::Postfix;
use crate::releases::is_wanted;
use crate::report::Report;
use crate::root::{MailServer, Release, Root};
use crate::router::{self, Daemon, Setup};
use crate::world::{self, Mta, World};
use crate::{Done, sandbox};

/// Builds the world and runs all scenarios in it.
pub fn run_all(cached_root: &Path) -> Done<ExitCode> {
    let root = Root::at(cached_root)?;
    let kept = kept(root.short_name());
    fs::create_dir_all(&kept)?;
    sandbox::prepare(cached_root)?;
    let logs = Logs::listen(&sandbox::in_root("/dev/log"), &kept.join("syslog"))?;
    let mut report = Report::new(root);
    match root.mail_server {
        MailServer::Postfix => {
            if let Some(mut world) = stand(root, &logs, &mut report, Postfix::start) {
                run_in(&mut world, &mut report);
            }
        }
        MailServer::Sendmail => sendmail::run_all(root, &logs, &mut report),
        MailServer::Exim => exim::run_all(root, &logs, &mut report),
        MailServer::PostfixBySystemd => units::run_all(root, &logs, &mut report),
    }
    Ok(if report.close() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Files kept of the run of a root, for later reading: `syslog`, and the `answers` of its lmtpd.
fn kept(root: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("real").join(root)
}

/// The first scenario: everything is built, the mail server last.
fn stand<M>(
    root: Root,
    logs: &Logs,
    report: &mut Report,
    start: fn() -> Done<M>,
) -> Option<World<M>> {
    let mut built = None;
    report.scenario("the Murder starts", logs, || {
        built = Some(build(root, logs.clone(), start)?);
        Ok(())
    });
    built
}

fn build<M>(root: Root, logs: Logs, start: fn() -> Done<M>) -> Done<World<M>> {
    let release = root.release;
    let murder = Murder::start(release)?;
    paths::populate(&murder)?;
    router::install()?;
    let imapd_conf = murder.frontend.imapd_conf();
    let setup = Setup::by_file(&imapd_conf, &world::DOMAINS, release, murder.cyrus)?;
    let daemon = Daemon::start(setup.clone())?;
    let outside = Sink::listen(world::OUTSIDE)?;
    let mail_server = start()?;
    let serial = AtomicU32::new(1);
    Ok(World { release, logs, murder, mail_server, setup, daemon, outside, serial })
}

/// Scenarios for every mail server and every source of the list.
fn whoever_asks<M: Mta>(scenario: &mut impl FnMut(&str, fn(&mut World<M>) -> Done)) {
    scenario("unknown is refused at RCPT", |w| refusals::unknown_is_refused_at_rcpt(w));
    scenario("a reserved mailbox is deferred", |w| refusals::reserved_is_put_off(w));
    scenario("foreign addresses pass unchanged", |w| refusals::foreign_addresses_pass_untouched(w));
    scenario("a created mailbox is known at once", |w| moving::created_is_known_at_once(w));
    scenario("a renamed mailbox follows its name", |w| moving::renamed_follows_its_name(w));
    scenario("a deleted mailbox is refused", |w| moving::deleted_is_refused(w));
    scenario("a moved mailbox gets the next mail", |w| moving::moved_mailbox_gets_the_next_mail(w));
    scenario("nothing is lost during a move", moving::nothing_is_lost_during_a_move);
}

fn run_in(world: &mut World, report: &mut Report) {
    let (logs, release) = (world.logs.clone(), world.release);
    let mut scenario = |name: &str, run: fn(&mut World) -> Done| {
        if is_wanted(name) {
            report.scenario(name, &logs, || run(world));
        }
    };
    scenario("every recipient on its own backend, without the frontend's lmtpd", |w| {
        paths::each_on_its_backend(w)
    });
    scenario("one message for both backends", |w| paths::one_message_for_both(w));
    scenario("a user that cyr_deny blocks is deferred", |w| refusals::blocked_user_is_put_off(w));
    scenario("postmap reads every map", |_| paths::postmap_reads_every_map());
    scenario(
        "Postfix in Debian's chroot asks through proxymap",
        paths::chrooted_as_debian_ships_it,
    );
    scenario("the doctor finds each fault", doctor::finds_what_is_wrong);
    whoever_asks(&mut scenario);
    scenario("a message is on its way when its mailbox moves", race::messages_on_their_way);
    scenario("a mailbox that has moved on is asked about", race::moved_on);
    scenario("the master is killed", master::killed);
    scenario("the master hangs", |w| master::hung(w));
    scenario("a new frontend starts without a master", master::frontend_begins_anew);
    scenario("the daemon is restarted under load", faults::daemon_restarts_under_load);
    scenario("the list is repacked", |w| faults::list_repacked(w));
    scenario("the list is damaged", faults::list_spoilt);
    scenario("every login at the master", upheavals::every_way_in);
    scenario("every certificate of the master", upheavals::every_certificate);
    scenario("every connection of the master is taken", |w| upheavals::connections_are_taken(w));
    scenario("many mailboxes are created and moved", |w| upheavals::many_come_and_move(w));
    scenario("the master forgets all mailboxes", upheavals::master_forgets);
    scenario("a slave takes the master's place", upheavals::slave_is_promoted);
    if release == without_cyrus::THOROUGH {
        scenario(
            "the frontend's list after an emptied master",
            losses::frontends_list_after_an_emptied_master,
        );
        scenario("mailboxes move while messages flow", churn::moved_to_and_fro);
    }
    scenario("every answer equals lmtpd's", |w| comparison::same_as_lmtpd(w));
    // The first and the last of the releases with equal keys.
    if matches!(release, Release::V3_6 | Release::V3_12) {
        scenario("eight threads look up while Cyrus writes and repacks", threads::beside_cyrus);
    }
    ready_postfix::run_in(world, report);
    table::run_in(world, report);
    without_cyrus::run_in(world, report);
}
