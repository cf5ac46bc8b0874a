//! What the analyses of a job looked at, in one line each.

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::follow::text;
use super::hub::Hub;

/// Reasons that are told.
const REASONS: usize = 3;

/// `GET /api/jobs/{eventId}/coverage/{analyzeId}/summary`
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    analysed: u64,
    skipped: u64,
    truncated: u64,
    reasons: Vec<Reason>,
    other_reasons: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Reason {
    status: String,
    reason: String,
    count: u64,
    examples: Vec<String>,
}

/// Asks what each analysis of `job` looked at, and puts it there as `coverage`. A model need not say.
pub(super) async fn add(hub: &Hub, job: &mut Value) {
    let event_id = text(job, "eventId").to_owned();
    let analyses = job.get_mut("analyses").and_then(Value::as_array_mut);
    for analysis in analyses.into_iter().flatten() {
        if text(analysis, "status") != "DONE" {
            continue;
        }
        let analyze_id = text(analysis, "analyzeId");
        let path = format!("/api/jobs/{event_id}/coverage/{analyze_id}/summary");
        let Ok(found) = hub.json(Method::GET, &path).await else {
            continue;
        };
        if let (Ok(summary), Some(analysis)) = (
            serde_json::from_value::<Summary>(found),
            analysis.as_object_mut(),
        ) {
            analysis.insert("coverage".to_owned(), json!(summary));
        }
    }
}

/// The line for an analysis, when [`add`] found something to say.
pub(super) fn line(analysis: &Value) -> Option<String> {
    let summary = Summary::deserialize(analysis.get("coverage")?).ok()?;
    let entries = summary.analysed + summary.skipped + summary.truncated;
    let left = summary.skipped + summary.truncated;
    if summary.analysed == 0 {
        let what = if summary.truncated > 0 || entries == 0 {
            "nothing could be read"
        } else {
            "there was nothing to analyse"
        };
        let reasons = summary.reasons.iter().take(REASONS).map(|reason| {
            let place = reason.examples.first().map_or("", String::as_str);
            format!("{place}: {}", reason.reason)
        });
        let said: Vec<String> = std::iter::once(what.to_owned()).chain(reasons).collect();
        return Some(said.join("; "));
    }
    if left == 0 {
        return Some(format!("all of {entries} entries looked at"));
    }
    let mut reasons: Vec<String> = summary
        .reasons
        .iter()
        .take(REASONS)
        .map(|reason| format!("{} {}", reason.count, reason.reason))
        .collect();
    if summary.reasons.len() > REASONS || summary.other_reasons > 0 {
        reasons.push("…".to_owned());
    }
    Some(format!(
        "{} of {entries} entries looked at, {left} left out ({})",
        summary.analysed,
        reasons.join("; ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coverage_is_one_line() {
        let reason = |count, reason: &str| json!({"status": "skipped", "reason": reason, "count": count, "examples": ["a.zip"]});
        let four =
            [("a", 4), ("b", 3), ("c", 2), ("d", 1)].map(|(text, count)| reason(count, text));
        for (analysed, truncated, reasons, expected) in [
            (3, 0, json!([]), "all of 3 entries looked at"),
            (
                0,
                1,
                json!([reason(1, "damaged")]),
                "nothing could be read; a.zip: damaged",
            ),
            (0, 0, json!([]), "nothing could be read"),
            (
                2,
                10,
                json!(four),
                "2 of 12 entries looked at, 10 left out (4 a; 3 b; 2 c; …)",
            ),
        ] {
            let analysis = json!({"coverage": {
                "analysed": analysed, "skipped": 0, "truncated": truncated, "reasons": reasons, "otherReasons": 0,
            }});
            assert_eq!(line(&analysis).as_deref(), Some(expected));
        }
        assert_eq!(line(&json!({})), None);
        assert_eq!(line(&json!({"coverage": {"analysed": "x"}})), None);
    }
}
