//! What is known of results: findings, rules and members, with their places in a result's parts.

use munjigi_events::{AnalysisId, EventId};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{QueryBuilder, Row, Sqlite};

use super::jobs::{number, unsigned};
use super::{Store, StoreError};

/// A finding of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) level: String,
    pub(crate) rule_id: String,
    pub(crate) path: String,
    /// Of its JSON, in the result's parts.
    pub(crate) start: u64,
    pub(crate) length: u64,
}

/// A rule of a result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) name: Option<String>,
    /// Numbers, the weakness itself first.
    pub(crate) cwe: Vec<u32>,
    /// What its reader is shown, as JSON.
    pub(crate) card: Option<String>,
}

/// A member of the archive, in the result's parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) path: String,
    pub(crate) start: u64,
    pub(crate) length: u64,
}

/// What a result's reading came to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    pub(crate) findings: Vec<Finding>,
    pub(crate) rules: Vec<(String, Rule)>,
    pub(crate) members: Vec<Member>,
}

/// Rows in one statement: SQLite takes 32,766 parameters.
const ROWS: usize = 2_000;

/// Writes down what a result holds, in place of what was known.
pub(crate) async fn insert(
    tx: &mut SqliteConnection,
    job: &EventId,
    id: &AnalysisId,
    index: &Index,
) -> Result<(), StoreError> {
    for statement in [
        "DELETE FROM findings WHERE analyze_id = ?",
        "DELETE FROM rules WHERE analyze_id = ?",
        "DELETE FROM members WHERE analyze_id = ?",
    ] {
        sqlx::query(statement)
            .bind(id.as_str())
            .execute(&mut *tx)
            .await?;
    }
    for findings in index.findings.chunks(ROWS) {
        let mut query = QueryBuilder::<Sqlite>::new(
            "INSERT INTO findings (event_id, analyze_id, level, rule_id, path, start, length) ",
        );
        query.push_values(findings, |mut row, finding| {
            row.push_bind(job.as_str())
                .push_bind(id.as_str())
                .push_bind(&finding.level)
                .push_bind(&finding.rule_id)
                .push_bind(&finding.path)
                .push_bind(number(finding.start))
                .push_bind(number(finding.length));
        });
        query.build().execute(&mut *tx).await?;
    }
    for rules in index.rules.chunks(ROWS) {
        let mut query = QueryBuilder::<Sqlite>::new(
            "INSERT OR IGNORE INTO rules (analyze_id, rule_id, name, cwe, card) ",
        );
        query.push_values(rules, |mut row, (rule_id, rule)| {
            row.push_bind(id.as_str())
                .push_bind(rule_id)
                .push_bind(&rule.name)
                .push_bind(listed(&rule.cwe))
                .push_bind(&rule.card);
        });
        query.build().execute(&mut *tx).await?;
    }
    for members in index.members.chunks(ROWS) {
        let mut query = QueryBuilder::<Sqlite>::new(
            "INSERT OR IGNORE INTO members (analyze_id, path, start, length) ",
        );
        query.push_values(members, |mut row, member| {
            row.push_bind(id.as_str())
                .push_bind(&member.path)
                .push_bind(number(member.start))
                .push_bind(number(member.length));
        });
        query.build().execute(&mut *tx).await?;
    }
    Ok(())
}

/// `,89,564,`: each number can be looked for between its commas.
fn listed(cwe: &[u32]) -> String {
    let mut list = String::from(",");
    for number in cwe {
        list.push_str(&number.to_string());
        list.push(',');
    }
    list
}

/// Forgets what the results of a job hold.
pub(crate) async fn forget(tx: &mut SqliteConnection, job: &EventId) -> Result<(), StoreError> {
    for statement in [
        "DELETE FROM findings WHERE event_id = ?",
        "DELETE FROM rules WHERE analyze_id IN (SELECT analyze_id FROM analyses WHERE event_id = ?)",
        "DELETE FROM members WHERE analyze_id IN (SELECT analyze_id FROM analyses WHERE event_id = ?)",
    ] {
        sqlx::query(statement)
            .bind(job.as_str())
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

/// Which findings are asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    pub(crate) analyze_id: Option<String>,
    /// Any of these levels; all when empty.
    pub(crate) levels: Vec<String>,
    pub(crate) cwe: Option<u32>,
    /// A part of the path.
    pub(crate) path: Option<String>,
    /// After the finding of this number.
    pub(crate) after: i64,
    pub(crate) limit: u32,
}

/// A finding with what its rule says.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Where to go on from.
    pub(crate) id: i64,
    pub(crate) analyze_id: AnalysisId,
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) rule_name: Option<String>,
    /// JSON.
    pub(crate) card: Option<String>,
}

/// Findings of a job.
pub(crate) async fn findings(
    store: &Store,
    job: &EventId,
    wanted: &Wanted,
) -> Result<Vec<Found>, StoreError> {
    let mut query = QueryBuilder::<Sqlite>::new(
        "SELECT f.id, f.analyze_id, f.start, f.length, r.name, r.card FROM findings f \
         LEFT JOIN rules r ON r.analyze_id = f.analyze_id AND r.rule_id = f.rule_id WHERE f.event_id = ",
    );
    query.push_bind(job.as_str());
    query.push(" AND f.id > ").push_bind(wanted.after);
    if let Some(id) = &wanted.analyze_id {
        query.push(" AND f.analyze_id = ").push_bind(id);
    }
    if !wanted.levels.is_empty() {
        query.push(" AND f.level IN (");
        let mut list = query.separated(", ");
        for level in &wanted.levels {
            list.push_bind(level);
        }
        query.push(")");
    }
    if let Some(cwe) = wanted.cwe {
        query
            .push(" AND instr(r.cwe, ")
            .push_bind(format!(",{cwe},"))
            .push(") > 0");
    }
    if let Some(path) = &wanted.path {
        query
            .push(" AND instr(f.path, ")
            .push_bind(path)
            .push(") > 0");
    }
    query
        .push(" ORDER BY f.id LIMIT ")
        .push_bind(i64::from(wanted.limit));
    let rows = query.build().fetch_all(store.read()).await?;
    rows.iter().map(found).collect()
}

fn found(row: &SqliteRow) -> Result<Found, StoreError> {
    Ok(Found {
        id: row.try_get("id")?,
        analyze_id: AnalysisId(row.try_get("analyze_id")?),
        start: unsigned(row.try_get("start")?),
        length: unsigned(row.try_get("length")?),
        rule_name: row.try_get("name")?,
        card: row.try_get("card")?,
    })
}

/// Where a member of a result is.
pub(crate) async fn member(
    store: &Store,
    id: &AnalysisId,
    path: &str,
) -> Result<Option<Member>, StoreError> {
    let row =
        sqlx::query("SELECT path, start, length FROM members WHERE analyze_id = ? AND path = ?")
            .bind(id.as_str())
            .bind(path)
            .fetch_optional(store.read())
            .await?;
    row.map(|row| {
        Ok(Member {
            path: row.try_get("path")?,
            start: unsigned(row.try_get("start")?),
            length: unsigned(row.try_get("length")?),
        })
    })
    .transpose()
}
