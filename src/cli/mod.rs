//! The command `murder-route`: one file for each subcommand.
//!
//! Options, output and exit status are a contract with scripts outside this repository. The exit
//! status follows sysexits(3).

/// Writes a line to standard error, as `eprintln!` does. If standard error cannot be written, answer
/// and exit status stay the same; `eprintln!` would panic.
macro_rules! complain {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

mod check;
mod demo;
mod doctor;
mod dump;
mod lmtp;
mod lookup;
mod postfix_config;
mod replica;
mod serve;
mod services;
mod sources;
mod status;
mod verify;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{MissPolicy, Overrides, Settings, SourceName};
use crate::os::map;
use crate::server::log;
use crate::wire::endpoint::Endpoint;

/// The exit status of the command, after sysexits(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    Ok = 0,
    /// The result is negative.
    No = 1,
    /// `EX_USAGE`
    Usage = 64,
    /// `EX_DATAERR`
    Data = 65,
    /// `EX_OSERR`
    System = 71,
    /// `EX_TEMPFAIL`
    Temporary = 75,
    /// `EX_NOPERM`
    NoPermission = 77,
    /// `EX_CONFIG`
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Tells the mail server which backend of a Cyrus IMAP Murder holds a recipient's mailbox.
#[derive(Debug, Parser)]
#[command(name = "murder-route", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look recipients up, as the daemon would
    Lookup(lookup::LookupArgs),
    /// Run the daemon, which answers mail servers
    Serve(serve::ServeArgs),
    /// Explain the configuration and warn of its consequences
    Check(check::CheckArgs),
    /// Test a deployment from end to end and report what to correct
    Doctor(doctor::DoctorArgs),
    /// Ask at a socket as another user, for `doctor`
    #[command(hide = true)]
    DoctorSocket(doctor::DoctorSocketArgs),
    /// Show the status of the running daemon
    Status(status::StatusArgs),
    /// Manage the replica of the master's list
    Replica(replica::ReplicaCommand),
    /// Print the settings with which Postfix uses murder-route
    PostfixConfig(postfix_config::PostfixConfigArgs),
    /// Print the whole mailbox list in internal names
    Dump(dump::Dump),
    /// Check a whole mailboxes.db and report all damage
    Verify(verify::Verify),
    /// Relay LMTP to a backend, for a mail server that runs a program for it
    Lmtp(lmtp::LmtpArgs),
    /// Demonstrate the routing of messages with this program only
    Demo(demo::DemoArgs),
}

/// Options for the sources and the configuration.
#[derive(Debug, Args)]
struct Common {
    /// The configuration file [default: /etc/murder-route.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The imapd.conf of the frontend
    #[arg(long, value_name = "FILE")]
    imapd_conf: Option<PathBuf>,
    /// The mailbox list, if not at the path of imapd.conf
    #[arg(long, value_name = "FILE")]
    mailboxes_db: Option<PathBuf>,
    /// A source of the mailbox list: mailboxes-db, replica or find; may be given again [default:
    /// mailboxes-db]
    #[arg(long = "source", value_name = "SOURCE", value_delimiter = ',')]
    sources: Vec<SourceName>,
    /// The directory of the replica [default: /var/lib/murder-route]
    #[arg(long, value_name = "DIR")]
    replica: Option<PathBuf>,
    /// Allow the password for the MUPDATE server to be sent in the clear
    #[arg(long)]
    allow_plaintext: bool,
    /// Action for misses that no MUPDATE server can confirm: confirm defers them if the list has
    /// mailboxes of other servers, final treats them as unknown [default: confirm]
    #[arg(long, value_name = "WHEN")]
    misses: Option<MissPolicy>,
    /// A domain to serve, `*` for every domain; may be given again
    #[arg(long = "domain", value_name = "DOMAIN")]
    domains: Vec<String>,
}

impl Common {
    fn overrides(&self, listen: &[Endpoint]) -> Overrides {
        Overrides {
            config: self.config.clone(),
            imapd_conf: self.imapd_conf.clone(),
            mailboxes_db: self.mailboxes_db.clone(),
            sources: self.sources.clone(),
            replica: self.replica.clone(),
            allow_plaintext: self.allow_plaintext,
            misses: self.misses,
            domains: self.domains.clone(),
            listen: listen.to_vec(),
            without_login: false,
        }
    }

    /// Loads the configuration, or prints its error.
    fn settings(&self) -> Result<Settings, Exit> {
        let settings = Settings::load(&self.overrides(&[])).map_err(|e| {
            complain!("murder-route: {e}");
            Exit::Config
        })?;
        for warning in &settings.warnings {
            complain!("murder-route: warning: {warning}");
        }
        Ok(settings)
    }
}

/// The name of this host, as the kernel has it.
fn host_name() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/hostname");
    read.map_or_else(|_| "localhost".into(), |name| name.trim().to_owned())
}

/// Prints a report on standard output.
fn print(report: &dyn std::fmt::Display) -> Result<(), Exit> {
    let mut stdout = std::io::stdout();
    // Output left in the buffer would be lost silently.
    match write!(stdout, "{report}").and_then(|()| stdout.flush()) {
        // The reader of the output has closed it.
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            complain!("murder-route: {e}");
            Err(Exit::System)
        }
        _ => Ok(()),
    }
}

/// Runs the command with the arguments of the process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            let asked_for = !e.use_stderr();
            return if asked_for { Exit::Ok.into() } else { Exit::Usage.into() };
        }
    };
    map::guard();
    let exit = match cli.command {
        Command::Lookup(lookup) => lookup.run(),
        Command::Serve(serve) => serve.run(),
        Command::Check(check) => check.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::DoctorSocket(ask) => ask.run(),
        Command::Status(status) => status.run(),
        Command::Replica(replica) => replica.run(),
        Command::PostfixConfig(pieces) => pieces.run(),
        Command::Dump(dump) => dump.run(),
        Command::Verify(verify) => verify.run(),
        Command::Lmtp(lmtp) => lmtp.run(),
        Command::Demo(demo) => demo.run(),
    };
    log::flush();
    match exit {
        Ok(()) => Exit::Ok.into(),
        Err(exit) => exit.into(),
    }
}
