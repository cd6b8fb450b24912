//! What was measured, as a table and as JSON.

use serde::Serialize;

/// What a row may cost.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Only recorded.
    None,
    /// Times the peer's median.
    Ratio(f64),
    /// Times the peer's median, of what is better the more of it there is.
    AtLeast(f64),
    /// In the row's own unit.
    AtMost(f64),
}

/// One row: samples of both sides in `unit`.
#[derive(Serialize)]
pub struct Row {
    /// What was done.
    pub name: String,
    /// Unit of the samples.
    pub unit: &'static str,
    /// What it may cost.
    pub target: Target,
    /// Our samples.
    pub ours: Vec<f64>,
    /// The peer's; empty when it was not measured.
    pub peer: Vec<f64>,
    /// What a reader must know of it.
    pub note: String,
}

/// Smallest, median, largest.
pub fn spread(samples: &[f64]) -> Option<(f64, f64, f64)> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    let median =
        if n % 2 == 1 { sorted[n / 2] } else { (sorted.get((n / 2).wrapping_sub(1))? + sorted[n / 2]) / 2.0 };
    Some((*sorted.first()?, median, *sorted.last()?))
}

impl Row {
    /// Our median over the peer's.
    pub fn ratio(&self) -> Option<f64> {
        let (ours, peer) = (spread(&self.ours)?.1, spread(&self.peer)?.1);
        (peer > 0.0).then(|| ours / peer)
    }

    /// Whether the target was met; `None` without a target or without what it is held against.
    pub fn met(&self) -> Option<bool> {
        match self.target {
            Target::None => None,
            Target::Ratio(at_most) => self.ratio().map(|r| r <= at_most),
            Target::AtLeast(at_least) => self.ratio().map(|r| r >= at_least),
            Target::AtMost(at_most) => spread(&self.ours).map(|s| s.1 <= at_most),
        }
    }

    /// A line of the table.
    pub fn line(&self) -> String {
        let side = |samples: &[f64]| match spread(samples) {
            None => "not measured".to_owned(),
            Some((low, mid, high)) if samples.len() > 1 => {
                format!("{} ({}..{}) {}", short(mid), short(low), short(high), self.unit)
            }
            Some((_, mid, _)) => format!("{} {}", short(mid), self.unit),
        };
        let target = match self.target {
            Target::None => String::new(),
            Target::Ratio(r) => format!("<= {r:.2}x"),
            Target::AtLeast(r) => format!(">= {r:.2}x"),
            Target::AtMost(n) => format!("<= {} {}", short(n), self.unit),
        };
        let verdict = match self.met() {
            None => "",
            Some(true) => "met",
            Some(false) => "MISSED",
        };
        let ratio = self.ratio().map_or("-".to_owned(), |r| format!("{r:.2}x"));
        format!(
            "{:<38} {:>28} {:>28} {:>7} {:>12} {:<6} {}",
            self.name,
            side(&self.ours),
            side(&self.peer),
            ratio,
            target,
            verdict,
            self.note
        )
    }
}

/// The table's head.
pub fn head() -> String {
    format!("{:<38} {:>28} {:>28} {:>7} {:>12}", "", "ours", "peer", "ratio", "target")
}

fn short(n: f64) -> String {
    match n {
        0.0 | 100.0.. => format!("{n:.0}"),
        1.0.. => format!("{n:.1}"),
        _ => format!("{n:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(target: Target, ours: &[f64], peer: &[f64]) -> Row {
        Row {
            name: "x".into(),
            unit: "ms",
            target,
            ours: ours.into(),
            peer: peer.into(),
            note: String::new(),
        }
    }

    #[test]
    fn medians_and_verdicts() {
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some((1.0, 2.0, 3.0)));
        assert_eq!(spread(&[4.0, 1.0]), Some((1.0, 2.5, 4.0)));
        assert_eq!(row(Target::Ratio(0.5), &[5.0], &[10.0]).met(), Some(true));
        assert_eq!(row(Target::Ratio(0.5), &[6.0], &[10.0]).met(), Some(false));
        assert_eq!(row(Target::Ratio(0.5), &[6.0], &[]).met(), None, "nothing to hold it against");
        assert_eq!(row(Target::AtMost(5.0), &[6.0], &[]).met(), Some(false));
        assert_eq!(row(Target::AtLeast(0.95), &[9.4], &[10.0]).met(), Some(false));
        assert_eq!(row(Target::AtLeast(0.95), &[9.6], &[10.0]).met(), Some(true));
        assert!(row(Target::Ratio(0.5), &[6.0], &[]).line().contains("not measured"));
    }
}
