//! Values of the configuration file: each function reads one kind strictly, for serde.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use crate::address::Release;
use crate::model::backend::{LMTP_PORT, LmtpAddress};
use crate::model::domains::Domains;
use crate::model::shown::Shown;
use crate::routing::maps::Template;
use crate::wire::endpoint::Endpoint;
use crate::wire::protocol::{Protocol, Protocols};

/// Maximum length of a fallback, in bytes.
const MAX_FALLBACK: usize = 1000;

/// Maximum length of a user name, in bytes.
const MAX_USERNAME: usize = 255;

/// Reads a list of strings.
pub(super) fn list<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    typed(input, "a list of strings, as in [\"one\", \"two\"]")
}

/// Reads a value, or names the kind that is expected.
pub(super) fn typed<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    input: D,
    kind: &str,
) -> Result<T, D::Error> {
    T::deserialize(input).map_err(|_| de::Error::custom(format!("must be {kind}")))
}

pub(super) fn seconds<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Duration>, D::Error> {
    match typed::<u32, _>(input, "a number of seconds")? {
        0 => Err(de::Error::custom("must be at least 1 second")),
        seconds => Ok(Some(Duration::from_secs(seconds.into()))),
    }
}

/// Reads a number of names or of connections.
pub(super) fn count<'de, T, D>(input: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de> + Default + PartialEq,
    D: Deserializer<'de>,
{
    let count: T = typed(input, "a number")?;
    match count == T::default() {
        true => Err(de::Error::custom("must be at least 1")),
        false => Ok(Some(count)),
    }
}

/// Reads `2.4` or `3.10`, as the family of releases with the same rules.
pub(super) fn release<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Release>, D::Error> {
    let text = String::deserialize(input)?;
    let number = |part: Option<&str>| part.and_then(|part| part.parse::<u32>().ok());
    let mut parts = text.splitn(3, '.');
    match (number(parts.next()), number(parts.next())) {
        (Some(2), Some(2..=4)) => Ok(Some(Release::V2_4)),
        (Some(2), Some(5)) => Ok(Some(Release::V2_5)),
        (Some(3), Some(0..=5)) => Ok(Some(Release::V3_0)),
        (Some(3), Some(6..=12)) => Ok(Some(Release::V3_6)),
        (Some(3), Some(_)) => Ok(Some(Release::V3_13)),
        _ => Err(de::Error::custom(format!(
            "`{}` is not a release of Cyrus; write it as in \"3.6\", from 2.2 on",
            Shown(&text)
        ))),
    }
}

pub(super) fn endpoint<'de, D: Deserializer<'de>>(input: D) -> Result<Endpoint, D::Error> {
    String::deserialize(input)?.parse().map_err(de::Error::custom)
}

pub(super) fn domains<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Domains>, D::Error> {
    Domains::new(list(input)?).map(Some).map_err(de::Error::custom)
}

pub(super) fn template<'de, D: Deserializer<'de>>(input: D) -> Result<Template, D::Error> {
    Template::parse(&String::deserialize(input)?).map_err(de::Error::custom)
}

pub(super) fn optional_template<'de, D: Deserializer<'de>>(
    input: D,
) -> Result<Option<Template>, D::Error> {
    template(input).map(Some)
}

/// Reads a name in Postfix' `master.cf`. A `:` would end it early.
pub(super) fn transport<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Box<str>>, D::Error> {
    let name = String::deserialize(input)?;
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || !name.bytes().all(is_allowed) {
        return Err(de::Error::custom(format!(
            "`{}` is not a transport; write a service name of master.cf, as in \"lmtp\"",
            Shown(&name)
        )));
    }
    Ok(Some(name.into()))
}

pub(super) fn address<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(input)?;
    LmtpAddress::parse(&text, LMTP_PORT).map_err(de::Error::custom)?;
    Ok(Some(text))
}

/// Reads a server as a list names it: not a unix socket.
pub(super) fn host<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(input)?;
    match LmtpAddress::parse(&text, LMTP_PORT).map_err(de::Error::custom)? {
        LmtpAddress::Inet { .. } => Ok(Some(text)),
        LmtpAddress::Unix(_) => Err(de::Error::custom("must be HOST or HOST:PORT")),
    }
}

/// Reads a domain that is appended to short server names.
pub(super) fn suffix<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Box<str>>, D::Error> {
    let name = String::deserialize(input)?;
    let domain = name.strip_prefix('.').unwrap_or(&name).to_ascii_lowercase();
    match LmtpAddress::parse(&format!("x.{domain}"), LMTP_PORT) {
        Ok(LmtpAddress::Inet { host, .. }) if host.strip_prefix("x.") == Some(&domain) => {
            Ok(Some(domain.into()))
        }
        _ => {
            let odd = Shown(&name);
            let text = format!("`{odd}` is not a domain; write it as in \"example.org\"");
            Err(de::Error::custom(text))
        }
    }
}

pub(super) fn port<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u16>, D::Error> {
    const KIND: &str = "a port number from 1 to 65535";
    match typed::<u16, _>(input, KIND)? {
        0 => Err(de::Error::custom(format!("must be {KIND}"))),
        port => Ok(Some(port)),
    }
}

pub(super) fn protocols<'de, D: Deserializer<'de>>(input: D) -> Result<Protocols, D::Error> {
    let mut protocols = Vec::new();
    for word in list(input)? {
        let protocol = word.parse::<Protocol>().map_err(de::Error::custom)?;
        if protocols.contains(&protocol) {
            return Err(de::Error::custom(format!("`{word}` is listed twice")));
        }
        protocols.push(protocol);
    }
    match protocols.is_empty() {
        true => Err(de::Error::custom("at least one protocol is needed")),
        false => Ok(protocols.into_iter().collect()),
    }
}

/// Reads octal in quotes: a bare number would be read as decimal, and 0660 is not a TOML number at all.
pub(super) fn mode<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u32>, D::Error> {
    let text: String = typed(input, "a mode in octal and in quotes, as in \"0660\"")?;
    match u32::from_str_radix(&text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(Some(mode)),
        _ => Err(de::Error::custom(format!(
            "`{}` is not a mode; write it in octal, as in \"0660\"",
            Shown(&text)
        ))),
    }
}

/// Reads an entry of Postfix' `transport_maps`: `transport:nexthop`.
pub(super) fn fallback<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(input)?;
    let printable = text.bytes().all(|b| (0x20..0x7f).contains(&b));
    if !printable || text.len() > MAX_FALLBACK || !text.contains(':') {
        let text = format!("`{}` is not a transport:nexthop", Shown(&text));
        return Err(de::Error::custom(text));
    }
    Ok(Some(text))
}

/// Reads a user name that SASL and a log line can hold.
pub(super) fn username<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    let name = String::deserialize(input)?;
    if name.len() > MAX_USERNAME || name.chars().any(char::is_control) {
        let text = format!("`{}` is not a user name", Shown(&name));
        return Err(de::Error::custom(text));
    }
    Ok(Some(name))
}
