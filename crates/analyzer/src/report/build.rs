//! An engine's finding → a SARIF result: the one place where spans become places, texts are masked and ids are made.

use std::collections::BTreeMap;
use std::ops::Range;

use super::mask::{Masker, Places};
use super::sarif::{
    self, ArtifactLocation, CodeFlow, Contribution, Fingerprints, Location, LogicalLocation,
    PhysicalLocation, ResultProperties, Snippet, Text, ThreadFlow, ThreadFlowLocation,
};
use crate::finding::{Finding, Span, Step, StepKind};
use crate::lines::Lines;
use crate::rank::{Score, Setting, score};

/// Longest text of a region; what is longer is cut, since its file is in `sources/`.
const SNIPPET_BYTES_MAX: usize = 2048;
/// Findings of one file beyond which it counts as truncated.
pub(crate) const FINDINGS_MAX: usize = 1000;

/// One file, ready to turn its findings into results.
#[derive(Debug)]
pub(crate) struct View<'t> {
    pub(crate) lines: Lines<'t>,
    /// Where its secrets are.
    pub(crate) places: Places,
    /// What its secrets say, for messages that quote code.
    pub(crate) masker: Masker,
    pub(crate) uri: String,
    pub(crate) base: String,
    pub(crate) setting: Setting,
}

impl View<'_> {
    /// The findings as results, ordered by place and rule, each once. `index_of` gives a rule's place in the log.
    pub(crate) fn results(
        &self,
        mut findings: Vec<Finding>,
        index_of: &dyn Fn(&str) -> usize,
    ) -> Vec<sarif::Result> {
        findings.sort_by(|a, b| order(a).cmp(&order(b)));
        findings.dedup_by(|a, b| a.rule.id == b.rule.id && a.span == b.span);
        let mut seen = BTreeMap::new();
        findings
            .iter()
            .take(FINDINGS_MAX)
            .map(|finding| {
                let id = self.fingerprint(finding, &mut seen);
                self.result(finding, id, index_of(finding.rule.id))
            })
            .collect()
    }

    fn result(&self, finding: &Finding, id: String, rule_index: usize) -> sarif::Result {
        let score = score(finding, self.setting);
        let rank = (score.probability * 10_000.0).round() / 100.0;
        sarif::Result {
            rule_id: finding.rule.id.to_owned(),
            rule_index,
            kind: "fail".to_owned(),
            level: sarif::level_name(finding.rule.level).to_owned(),
            message: self.text(&finding.message),
            locations: vec![self.location(&finding.span, &finding.function, None)],
            partial_fingerprints: Fingerprints { v1: id },
            code_flows: self.flows(&finding.flow),
            rank,
            properties: ResultProperties {
                munjigi: self.score(score),
            },
        }
    }

    fn flows(&self, steps: &[Step]) -> Vec<CodeFlow> {
        if steps.is_empty() {
            return Vec::new();
        }
        let locations = steps
            .iter()
            .map(|step| ThreadFlowLocation {
                location: self.location(&step.span, &step.function, Some(&step.message)),
                kinds: vec![sarif::step_name(step.kind).to_owned()],
                importance: match step.kind {
                    StepKind::Source | StepKind::Sink => "essential",
                    _ => "important",
                }
                .to_owned(),
            })
            .collect();
        vec![CodeFlow {
            thread_flows: vec![ThreadFlow { locations }],
        }]
    }

    fn score(&self, score: Score) -> sarif::Score {
        let contributions = score
            .contributions
            .iter()
            .map(|feature| Contribution {
                feature: feature.name.to_owned(),
                value: feature.value,
                locations: feature
                    .spans
                    .iter()
                    .map(|span| self.evidence(span))
                    .collect(),
            })
            .collect();
        sarif::Score {
            probability: score.probability,
            margin: score.margin,
            base: score.base,
            contributions,
            reliability: score.reliability,
            counterfactuals: Vec::new(),
        }
    }

    /// A place without its surroundings.
    fn evidence(&self, span: &Span) -> Location {
        let mut location = self.location(span, "", None);
        location.physical_location.context_region = None;
        location
    }

    fn location(&self, span: &Span, function: &str, message: Option<&str>) -> Location {
        let range = self.lines.clamp(span);
        let logical = (!function.is_empty()).then(|| LogicalLocation {
            fully_qualified_name: self.text(function).text,
            kind: "function".to_owned(),
        });
        Location {
            physical_location: PhysicalLocation {
                artifact_location: ArtifactLocation {
                    uri: self.uri.clone(),
                    uri_base_id: self.base.clone(),
                },
                context_region: Some(self.snippet(self.lines.context(&range))),
                region: self.snippet(range),
            },
            logical_locations: logical.into_iter().collect(),
            message: message.map(|message| self.text(message)),
        }
    }

    fn snippet(&self, range: Range<usize>) -> Snippet {
        let region = self.lines.region(&range);
        let text = self.lines.text();
        let end = text.floor_char_boundary(range.end.min(range.start + SNIPPET_BYTES_MAX));
        Snippet {
            region,
            snippet: Text::new(self.places.show(text, range.start..end)),
        }
    }

    fn text(&self, text: &str) -> Text {
        Text::new(self.masker.mask(text).unwrap_or_else(|| text.to_owned()))
    }

    /// A finding's id: what it says and where, without line numbers, so that edits elsewhere in the file keep it. Equal
    /// ones in one function are told apart by their order.
    fn fingerprint(&self, finding: &Finding, seen: &mut BTreeMap<[u8; 32], u64>) -> String {
        let range = self.lines.clamp(&finding.span);
        let shown = self.places.show(self.lines.text(), self.line_of(&range));
        let mut hasher = blake3::Hasher::new();
        for part in [
            finding.rule.id,
            &self.base,
            &self.uri,
            &self.text(&finding.function).text,
        ] {
            hasher.update(part.as_bytes());
            hasher.update(&[0]);
        }
        for word in shown.split_whitespace() {
            hasher.update(word.as_bytes());
            hasher.update(b" ");
        }
        let count = seen.entry(*hasher.finalize().as_bytes()).or_default();
        hasher.update(&count.to_le_bytes());
        *count += 1;
        hasher.finalize().to_hex().chars().take(32).collect()
    }

    /// What identifies a place: its own text, with the rest of its first line when that is short.
    fn line_of(&self, range: &Range<usize>) -> Range<usize> {
        let text = self.lines.text();
        let before = text.get(..range.start).unwrap_or_default();
        let after = text.get(range.end..).unwrap_or_default();
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let end = after.find('\n').map_or(text.len(), |at| range.end + at);
        if end - start <= 400 {
            start..end
        } else {
            range.clone()
        }
    }
}

fn order(finding: &Finding) -> (u32, u32, &'static str) {
    (finding.span.start, finding.span.end, finding.rule.id)
}
