//! Changes to an imapd.conf that stands.

/// The text with these options instead of what it says of them. Cyrus takes no option twice.
pub fn changed(text: &str, options: &[(&str, &str)]) -> String {
    let named = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default();
        !options.iter().any(|(option, _)| *option == name)
    };
    let kept = text.lines().filter(named).map(|line| format!("{line}\n"));
    kept.chain(options.iter().map(|(name, value)| format!("{name}: {value}\n"))).collect()
}
