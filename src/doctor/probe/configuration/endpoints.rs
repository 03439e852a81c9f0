//! Backends and listening sockets of a configuration.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::CheckReport;
use crate::config::{DEFAULT_SOCKET, Settings};
use crate::doctor::judge::one_line;
use crate::model::backend::{ServerOverride, folded};
use crate::os::accounts;
use crate::wire::endpoint::{DEFAULT_MODE, Endpoint};
use crate::wire::protocol::Protocols;

impl CheckReport {
    pub(super) fn backends(&mut self, settings: &Settings) {
        let backends = &settings.router.backends;
        self.line(
            "backends",
            format!(
                "transport {}, port {}, unless the list has another port",
                backends.transport, backends.port
            ),
        );
        if settings.router.rules.autocreate.is_some() {
            match (&backends.autocreate, &settings.maps.fallback) {
                (Some(server), _) => self.line("new users", format!("created on {server}")),
                (None, Some(fallback)) => self.line("new users", format!("sent to {fallback}")),
                (None, None) => {}
            }
        }
        for (server, ServerOverride { address: place, transport, drain }) in backends.overrides() {
            let mut text = format!("{server}:");
            if let Some(place) = place {
                let _ = write!(text, " at {place}");
            }
            if let Some(transport) = transport {
                let _ = write!(text, " transport {transport}");
            }
            if *drain {
                text += " drained: its messages are deferred";
            }
            self.line("", text);
        }
        // An empty set: there is no list here, or another warning says that it is empty.
        if !self.unread && !self.servers.is_empty() {
            for name in backends.unlisted(self.servers.iter().map(String::as_str)) {
                let long = self.servers.iter().find(|server| is_short_for(name, server));
                let meant = match long {
                    Some(long) => format!("use the name `{}` of the list", one_line(long)),
                    None => "use the name of the list if it should be there".to_owned(),
                };
                self.warnings.push(format!(
                    "[backends.servers] {}: no mailbox of the list is on a server of this name; its \
                     settings (as `drain` or `address`) have no effect; {meant}",
                    one_line(name)
                ));
            }
        }
        self.line(
            "local mailboxes",
            match &backends.local {
                Some(place) => format!("at {place}"),
                None => "their messages are deferred".into(),
            },
        );
    }

    pub(super) fn sockets(&mut self, settings: &Settings) {
        if settings.listeners.is_empty() {
            self.line("listening at", format!("unix:{DEFAULT_SOCKET}, or systemd's socket"));
        }
        for listen in &settings.listeners {
            let mut text = listen.endpoint.to_string();
            if let Endpoint::Unix(path) = &listen.endpoint {
                let _ = write!(text, " mode {:04o}", listen.options.mode.unwrap_or(DEFAULT_MODE));
                for (what, account) in
                    [("owner", &listen.options.owner), ("group", &listen.options.group)]
                {
                    if let Some(account) = account {
                        let _ = write!(text, " {what} {account}");
                    }
                }
                self.socket_directory(path);
                if let Err(why) =
                    accounts::ids(listen.options.owner.as_deref(), listen.options.group.as_deref())
                {
                    self.fail(&why);
                }
            }
            if let Endpoint::Inet { host, .. } = &listen.endpoint
                && !is_loopback(host)
            {
                self.warn(format!(
                    "{}: any host that reaches this port can ask which recipients exist; listen at a \
                     unix socket or at 127.0.0.1, or let a firewall admit mail servers only",
                    listen.endpoint
                ));
            }
            if listen.protocols != Protocols::ALL {
                let _ = write!(text, " for {} only", listen.protocols);
            }
            self.line("listening at", text);
        }
    }

    fn socket_directory(&mut self, socket: &Path) {
        let Some(directory) = socket.parent() else { return };
        match directory.metadata() {
            Ok(metadata) if metadata.mode() & 0o002 != 0 => self.warn(format!(
                "{}: directory is world-writable; any user could replace the socket; restrict its mode",
                directory.display()
            )),
            Ok(_) => {}
            Err(e) => self.warn(format!("{}: {e}", directory.display())),
        }
    }
}

/// Whether only this host reaches an address. A name other than localhost may be any host.
fn is_loopback(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

/// Whether both names differ only in the domain or the port.
fn is_short_for(name: &str, listed: &str) -> bool {
    let host = |text: &str| {
        let text = folded(text);
        text.split(':').next().unwrap_or_default().to_owned()
    };
    let (name, listed) = (host(name), host(listed));
    let label = |host: &str| host.split('.').next().unwrap_or_default().to_owned();
    name == listed
        || ((name == label(&name) || listed == label(&listed)) && label(&name) == label(&listed))
}
