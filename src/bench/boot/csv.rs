//! Raw samples as comma-separated values (RFC 4180), a line each.

use std::fmt::Write;

use super::results::Results;

/// Every sample: group, subject, measure, turn or number at once or size, microseconds.
pub fn render(results: &Results) -> String {
    let mut out = "group,subject,measure,turn,at_once,size,us\r\n".to_owned();
    for group in &results.groups {
        for subject in &group.subjects {
            for series in &subject.series {
                for (turn, us) in series.turns.iter().zip(series.us.values()) {
                    let (name, measure) = (field(&subject.name), series.measure.key());
                    let _ = write!(out, "{},{name},{measure},{turn},,,{us:.3}\r\n", group.name);
                }
            }
        }
    }
    for load in &results.loads {
        for (measure, sample) in [("userspace", &load.userspace_us), ("exit", &load.exit_us)] {
            for us in sample.values() {
                let name = field(&load.subject);
                let _ = write!(out, "{},{name},{measure},,{},,{us:.3}\r\n", load.group, load.at_once);
            }
        }
    }
    for growth in &results.growths {
        for (size, sample) in &growth.points {
            for us in sample.values() {
                let (name, axis) = (field(&growth.subject), growth.axis.unit());
                let _ = write!(out, "{},{name},userspace,,,{size} {axis},{us:.3}\r\n", growth.group);
            }
        }
    }
    out
}

/// A field, quoted where it must be.
fn field(text: &str) -> String {
    if text.contains(['"', ',', '\r', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that separators and quotes in a name don't make another column.
    #[test]
    fn fields_are_quoted() {
        assert_eq!([field("runc"), field("a,b"), field("say \"x\"")], ["runc", "\"a,b\"", "\"say \"\"x\"\"\""]);
    }
}
