//! Changes to an existing imapd.conf.

/// Replaces these options in the text. Cyrus accepts each option only once.
pub fn changed(text: &str, options: &[(&str, &str)]) -> String {
    let named = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default();
        !options.iter().any(|(option, _)| *option == name)
    };
    let kept = text.lines().filter(named).map(|line| format!("{line}\n"));
    kept.chain(options.iter().map(|(name, value)| format!("{name}: {value}\n"))).collect()
}
