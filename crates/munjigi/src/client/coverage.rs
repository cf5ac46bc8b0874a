//! What the analyses of a job looked at, in one line each.

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::follow::{list, text};
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

/// True when every analysis of `job` says that it looked at nothing.
pub(super) fn nothing_analysed(job: &Value) -> bool {
    let analyses = list(job, "analyses");
    let nothing = |analysis: &Value| {
        let summary = analysis.get("coverage").map(Summary::deserialize);
        summary.is_some_and(|read| read.is_ok_and(|summary| summary.analysed == 0))
    };
    !analyses.is_empty() && analyses.iter().all(nothing)
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
        let what = format!("nothing was analysed: {what}");
        let reasons = summary.reasons.iter().take(REASONS).map(|reason| {
            let place = reason.examples.first().map_or("", String::as_str);
            format!("{place}: {}", reason.reason)
        });
        let said: Vec<String> = std::iter::once(what).chain(reasons).collect();
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
                "nothing was analysed: nothing could be read; a.zip: damaged",
            ),
            (
                0,
                0,
                json!([]),
                "nothing was analysed: nothing could be read",
            ),
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
        let job = |analysed: &[u64]| {
            let analyses = analysed.iter().map(|analysed| {
                json!({"coverage": {
                    "analysed": analysed, "skipped": 1, "truncated": 0, "reasons": [], "otherReasons": 0,
                }})
            });
            json!({ "analyses": analyses.collect::<Vec<_>>() })
        };
        assert!(nothing_analysed(&job(&[0])) && nothing_analysed(&job(&[0, 0])));
        assert!(!nothing_analysed(&job(&[0, 1])) && !nothing_analysed(&job(&[])));
        assert!(!nothing_analysed(
            &json!({"analyses": [{"model": "says nothing"}]})
        ));
        assert_eq!(line(&json!({})), None);
        assert_eq!(line(&json!({"coverage": {"analysed": "x"}})), None);
    }
}
