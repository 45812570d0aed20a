//! The text format of Prometheus, version 0.0.4. (Its newer cousin, OpenMetrics, names the type of a
//! counter without `_total`; what reads the older one would take our counters for untyped.)

use std::fmt::{Display, Write};

use limen_core::service::Durations;

/// What this format is, as `Content-Type` says it.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family of series is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only rises, until the process ends.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations by how long they were.
    Histogram,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// A text that grows family by family.
#[derive(Debug, Default)]
pub(crate) struct Text(String);

/// All series of one name, which stand together.
#[derive(Debug)]
pub(crate) struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Text {
    /// Begins a family; `help` is one sentence without a backslash.
    pub(crate) fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) -> Family<'_> {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {}", kind.as_str()));
        Family { text: &mut self.0, name }
    }

    fn line(&mut self, line: impl Display) {
        line_to(&mut self.0, line);
    }

    pub(crate) fn into_string(self) -> String {
        self.0
    }
}

impl Family<'_> {
    /// One series and its value.
    pub(crate) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        let (name, labels) = (self.name, braced(labels, None));
        line_to(self.text, format_args!("{name}{labels} {value}"));
        self
    }

    /// One series, whose labels are written already but for that of its device, where it has one.
    pub(crate) fn labelled(&mut self, labels: &str, device: &str, value: impl Display) {
        let name = self.name;
        if device.is_empty() {
            line_to(self.text, format_args!("{name}{{{labels}}} {value}"));
        } else {
            line_to(self.text, format_args!("{name}{{{labels},target_device=\"{}\"}} {value}", escape(device)));
        }
    }

    /// All series of a histogram with these labels.
    pub(crate) fn durations(&mut self, labels: &[(&str, &str)], durations: &Durations) {
        let name = self.name;
        for (bound, count) in &durations.at_most {
            let labels = braced(labels, Some(&bound.to_string()));
            line_to(self.text, format_args!("{name}_bucket{labels} {count}"));
        }
        let (all, labels) = (braced(labels, Some("+Inf")), braced(labels, None));
        let (sum, count) = (durations.sum.as_secs_f64(), durations.count);
        line_to(self.text, format_args!("{name}_bucket{all} {count}"));
        line_to(self.text, format_args!("{name}_sum{labels} {sum}"));
        line_to(self.text, format_args!("{name}_count{labels} {count}"));
    }
}

fn line_to(text: &mut String, line: impl Display) {
    // Writing into a string cannot fail.
    _ = writeln!(text, "{line}");
}

/// Labels without their braces.
pub(crate) fn labels(labels: &[(&str, &str)]) -> String {
    let written: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    written.join(",")
}

fn braced(labels: &[(&str, &str)], at_most: Option<&str>) -> String {
    let labels = labels.iter().copied().chain(at_most.map(|bound| ("le", bound)));
    let written: Vec<String> = labels.map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    if written.is_empty() { String::new() } else { format!("{{{}}}", written.join(",")) }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_family_is_written_as_the_format_wants_it() {
        let mut text = Text::default();
        text.family("a_total", Kind::Counter, "So many.").sample(&[], 3).sample(&[("b", "\"\\\n")], 0.5);
        let durations = Durations { at_most: vec![(0.1, 1), (1.0, 1)], count: 2, sum: Duration::from_millis(2050) };
        text.family("d_seconds", Kind::Histogram, "So long.").durations(&[("k", "v")], &durations);
        let expected = "# HELP a_total So many.\n# TYPE a_total counter\na_total 3\na_total{b=\"\\\"\\\\\\n\"} 0.5\n\
                        # HELP d_seconds So long.\n# TYPE d_seconds histogram\n\
                        d_seconds_bucket{k=\"v\",le=\"0.1\"} 1\nd_seconds_bucket{k=\"v\",le=\"1\"} 1\n\
                        d_seconds_bucket{k=\"v\",le=\"+Inf\"} 2\nd_seconds_sum{k=\"v\"} 2.05\nd_seconds_count{k=\"v\"} 2\n";
        assert_eq!(text.into_string(), expected);
    }
}
