//! The table at the end of a run.

use std::fmt;

/// Goal of a figure.
#[derive(Clone, Copy)]
pub enum Goal {
    /// Minimum ratio of our figure to the peer's.
    AtLeast(f64),
    /// Maximum ratio of our figure to the peer's.
    AtMost(f64),
    /// Maximum of our figure.
    Below(f64),
    /// For information only.
    None,
}

struct Row {
    what: String,
    ours: f64,
    peer: Option<(String, f64, f64)>,
    unit: &'static str,
    goal: Goal,
}

/// All figures of a run.
#[derive(Default)]
pub struct Table(Vec<Row>);

impl Table {
    /// A figure against that of a peer. `ratio` is the median of the ratios of neighbouring slices, which
    /// differs from the ratio of the medians.
    pub fn against(
        &mut self,
        what: impl Into<String>,
        unit: &'static str,
        ours: f64,
        peer: (impl Into<String>, f64),
        ratio: f64,
        goal: Goal,
    ) {
        let peer = Some((peer.0.into(), peer.1, ratio));
        self.0.push(Row { what: what.into(), ours, peer, unit, goal });
        self.report();
    }

    /// A figure without a peer.
    pub fn alone(&mut self, what: impl Into<String>, unit: &'static str, ours: f64, goal: Goal) {
        self.0.push(Row { what: what.into(), ours, peer: None, unit, goal });
        self.report();
    }

    /// Shows the last row at once: a run takes some minutes.
    fn report(&self) {
        if let Some(row) = self.0.last() {
            println!("{row}");
        }
    }
}

const HEAD: &str = "what | ours | peer | ratio | goal";

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| {HEAD} |\n|---|---:|---:|---:|---|")?;
        self.0.iter().try_for_each(|row| writeln!(f, "| {row} |"))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, ours, peer, unit, goal } = self;
        write!(f, "{what} | {} {unit} | ", rounded(*ours))?;
        let ratio = match peer {
            Some((name, theirs, ratio)) => {
                write!(f, "{name}: {} {unit} | {ratio:.2} | ", rounded(*theirs))?;
                *ratio
            }
            None => {
                write!(f, " |  | ")?;
                f64::NAN
            }
        };
        let met = |met: bool| if met { "met" } else { "missed" };
        match goal {
            Goal::AtLeast(least) => write!(f, "[at least {least}] {}", met(ratio >= *least)),
            Goal::AtMost(most) => write!(f, "[at most {most}] {}", met(ratio <= *most)),
            Goal::Below(most) => write!(f, "[under {most} {unit}] {}", met(ours < most)),
            Goal::None => Ok(()),
        }
    }
}

/// No more digits than a measurement on a busy machine supports.
fn rounded(value: f64) -> String {
    if value < 10.0 {
        format!("{value:.2}")
    } else if value < 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// The median.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The median of the ratios of neighbours.
pub fn ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    median(ours.iter().zip(theirs).map(|(a, b)| a / b))
}
