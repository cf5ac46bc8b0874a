//! What secrets look like: one pattern for each kind of token, and assignments to names that say "secret".

use super::check;
use super::rules;
use crate::finding::{Feature, Rule};

/// A fact about a match, or `None` when it is no secret after all.
type Check = fn(&str) -> Option<Vec<Feature>>;

/// A token that is known by its own form.
pub(super) struct Token {
    pub(super) rule: &'static Rule,
    /// What a reader calls it, with its article.
    pub(super) what: &'static str,
    /// In every match, as written; found before the pattern is tried.
    pub(super) keyword: &'static str,
    /// Group 1 is the secret.
    pub(super) pattern: &'static str,
    pub(super) check: Check,
}

fn feature(name: &'static str, value: f64) -> Feature {
    Feature {
        name,
        value,
        spans: Vec::new(),
    }
}

fn known_form(value: &str) -> Option<Vec<Feature>> {
    (!looks_made_up(value)).then(|| vec![feature("known-token-format", 0.8)])
}

fn random(value: &str) -> Option<Vec<Feature>> {
    (check::entropy(value) >= 3.0 && !looks_made_up(value)).then(|| {
        vec![
            feature("known-token-format", 0.8),
            feature("high-entropy", 0.4),
        ]
    })
}

fn checksummed(value: &str) -> Option<Vec<Feature>> {
    if looks_made_up(value) {
        return None;
    }
    let fits = check::checksum_fits(value);
    let fact = if fits {
        feature("checksum-fits", 2.0)
    } else {
        feature("checksum-does-not-fit", -1.2)
    };
    Some(vec![feature("known-token-format", 0.8), fact])
}

fn test_mode(value: &str) -> Option<Vec<Feature>> {
    known_form(value).map(|mut features| {
        features.push(feature("test-mode-key", -1.5));
        features
    })
}

fn jwt(value: &str) -> Option<Vec<Feature>> {
    check::is_jwt(value).then(|| vec![feature("token-decodes", 0.6)])
}

fn password(value: &str) -> Option<Vec<Feature>> {
    let placeholder = check::is_placeholder(value)
        || value.len() < 4
        || matches!(value, "user" | "pass" | "admin" | "root" | "guest");
    (!placeholder).then(|| vec![feature("password-in-address", 0.5)])
}

/// A sample value: one character over and over, or the vendor's own example.
fn looks_made_up(value: &str) -> bool {
    let body = value.rsplit(['-', '_']).next().unwrap_or(value);
    check::entropy(body) < 2.0
        || value.contains("xxxxxx")
        || value.contains("XXXXXX")
        || value == "AKIAIOSFODNN7EXAMPLE"
        || value == "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
}

macro_rules! token {
    ($rule:ident, $what:literal, $keyword:literal, $pattern:literal, $check:ident) => {
        Token {
            rule: &rules::$rule,
            what: $what,
            keyword: $keyword,
            pattern: $pattern,
            check: $check,
        }
    };
}

/// Keywords are compared without regard to case only in the prefilter; patterns decide.
pub(super) static TOKENS: &[Token] = &[
    token!(
        AWS,
        "an AWS access key id",
        "AKIA",
        r"\b(AKIA[A-Z2-7]{16})\b",
        random
    ),
    token!(
        AWS,
        "an AWS temporary access key id",
        "ASIA",
        r"\b(ASIA[A-Z2-7]{16})\b",
        random
    ),
    token!(
        AWS,
        "an AWS secret access key",
        "aws",
        r#"(?i)aws[\w.-]{0,20}secret[\w.-]{0,24}["']?\s{0,4}(?:=>|[=:,])\s{0,4}["']?([A-Za-z0-9/+]{40})(?:[^A-Za-z0-9/+]|$)"#,
        random
    ),
    token!(
        AZURE,
        "an Azure storage account key",
        "AccountKey=",
        r"AccountKey=([A-Za-z0-9+/]{86}==)",
        random
    ),
    token!(
        GCP,
        "a Google API key",
        "AIza",
        r"\b(AIza[0-9A-Za-z_-]{35})(?:[^0-9A-Za-z_-]|$)",
        random
    ),
    token!(
        GCP,
        "a Google OAuth client secret",
        "GOCSPX-",
        r"\b(GOCSPX-[0-9A-Za-z_-]{28})(?:[^0-9A-Za-z_-]|$)",
        random
    ),
    token!(
        CLOUD,
        "a DigitalOcean token",
        "dop_v1_",
        r"\b(dop_v1_[a-f0-9]{64})\b",
        known_form
    ),
    token!(
        CLOUD,
        "a Databricks token",
        "dapi",
        r"\b(dapi[a-f0-9]{32})\b",
        random
    ),
    token!(
        CLOUD,
        "a HashiCorp Vault token",
        "hvs.",
        r"\b(hvs\.[A-Za-z0-9_-]{24,200})(?:[^0-9A-Za-z_-]|$)",
        random
    ),
    token!(
        CLOUD,
        "a Shopify token",
        "shpat_",
        r"\b(shpat_[a-fA-F0-9]{32})\b",
        known_form
    ),
    token!(
        CLOUD,
        "an age secret key",
        "AGE-SECRET-KEY-",
        r"\b(AGE-SECRET-KEY-1[0-9A-Z]{58})\b",
        known_form
    ),
    token!(
        GITHUB,
        "a GitHub personal access token",
        "ghp_",
        r"\b(ghp_[0-9A-Za-z]{36})\b",
        checksummed
    ),
    token!(
        GITHUB,
        "a GitHub OAuth token",
        "gho_",
        r"\b(gho_[0-9A-Za-z]{36})\b",
        checksummed
    ),
    token!(
        GITHUB,
        "a GitHub app token",
        "ghs_",
        r"\b(ghs_[0-9A-Za-z]{36})\b",
        checksummed
    ),
    token!(
        GITHUB,
        "a GitHub user-to-server token",
        "ghu_",
        r"\b(ghu_[0-9A-Za-z]{36})\b",
        checksummed
    ),
    token!(
        GITHUB,
        "a GitHub refresh token",
        "ghr_",
        r"\b(ghr_[0-9A-Za-z]{36,76})\b",
        known_form
    ),
    token!(
        GITHUB,
        "a GitHub fine-grained token",
        "github_pat_",
        r"\b(github_pat_[0-9A-Za-z]{22}_[0-9A-Za-z]{59})\b",
        known_form
    ),
    token!(
        GITLAB,
        "a GitLab personal access token",
        "glpat-",
        r"\b(glpat-[0-9A-Za-z_.-]{20,300})(?:[^0-9A-Za-z_.-]|$)",
        known_form
    ),
    token!(
        GITLAB,
        "a GitLab runner token",
        "glrt-",
        r"\b(glrt-[0-9A-Za-z_-]{20,50})(?:[^0-9A-Za-z_-]|$)",
        known_form
    ),
    token!(
        PACKAGES,
        "an npm token",
        "npm_",
        r"\b(npm_[0-9A-Za-z]{36})\b",
        checksummed
    ),
    token!(
        PACKAGES,
        "a PyPI token",
        "pypi-AgE",
        r"\b(pypi-AgE[0-9A-Za-z_-]{50,1000})(?:[^0-9A-Za-z_-]|$)",
        known_form
    ),
    token!(
        PACKAGES,
        "a RubyGems token",
        "rubygems_",
        r"\b(rubygems_[a-f0-9]{48})\b",
        known_form
    ),
    token!(
        PACKAGES,
        "a Docker Hub token",
        "dckr_pat_",
        r"\b(dckr_pat_[0-9A-Za-z_-]{27})(?:[^0-9A-Za-z_-]|$)",
        known_form
    ),
    token!(
        CHAT,
        "a Slack token",
        "xox",
        r"\b(xox[abeoprs]-[0-9A-Za-z-]{10,250})(?:[^0-9A-Za-z-]|$)",
        random
    ),
    token!(
        CHAT,
        "a Slack app token",
        "xapp-",
        r"\b(xapp-\d-[0-9A-Z]{8,20}-\d{8,20}-[0-9a-f]{32,80})\b",
        known_form
    ),
    token!(
        CHAT,
        "a Slack webhook address",
        "hooks.slack.com",
        r"hooks\.slack\.com/(?:services|workflows)/(T[0-9A-Z]{6,14}/[0-9A-Z]{6,14}/[0-9A-Za-z]{16,48})",
        random
    ),
    token!(
        CHAT,
        "a Telegram bot token",
        ":AA",
        r"\b(\d{8,10}:AA[0-9A-Za-z_-]{33})(?:[^0-9A-Za-z_-]|$)",
        random
    ),
    token!(
        CHAT,
        "a Discord webhook address",
        "discord",
        r"discord(?:app)?\.com/api/webhooks/(\d{17,20}/[0-9A-Za-z_-]{60,80})",
        random
    ),
    token!(
        PAYMENT,
        "a Stripe live key",
        "_live_",
        r"\b((?:sk|rk)_live_[0-9A-Za-z]{16,247})\b",
        known_form
    ),
    token!(
        PAYMENT,
        "a Stripe test key",
        "_test_",
        r"\b((?:sk|rk)_test_[0-9A-Za-z]{16,247})\b",
        test_mode
    ),
    token!(
        PAYMENT,
        "a Square token",
        "sq0",
        r"\b(sq0(?:atp|csp)-[0-9A-Za-z_-]{22,43})(?:[^0-9A-Za-z_-]|$)",
        known_form
    ),
    token!(
        PAYMENT,
        "a Square access token",
        "EAAA",
        r"\b(EAAA[0-9A-Za-z_-]{60})(?:[^0-9A-Za-z_-]|$)",
        random
    ),
    token!(
        MAIL,
        "a Twilio API key",
        "SK",
        r"\b(SK[0-9a-f]{32})\b",
        random
    ),
    token!(
        MAIL,
        "a SendGrid key",
        "SG.",
        r"\b(SG\.[0-9A-Za-z_-]{22}\.[0-9A-Za-z_-]{43})(?:[^0-9A-Za-z_-]|$)",
        known_form
    ),
    token!(
        MAIL,
        "a Mailgun key",
        "key-",
        r"\b(key-[0-9a-f]{32})\b",
        random
    ),
    token!(
        MAIL,
        "a Mailchimp key",
        "-us",
        r"\b([0-9a-f]{32}-us\d{1,2})\b",
        random
    ),
    token!(
        AI,
        "an OpenAI key",
        "T3BlbkFJ",
        r"\b(sk-[0-9A-Za-z_-]{16,120}T3BlbkFJ[0-9A-Za-z_-]{16,120})(?:[^0-9A-Za-z_-]|$)",
        known_form
    ),
    token!(
        AI,
        "an Anthropic key",
        "sk-ant-",
        r"\b(sk-ant-[a-z0-9]{3,10}-[0-9A-Za-z_-]{40,120})(?:[^0-9A-Za-z_-]|$)",
        known_form
    ),
    token!(
        AI,
        "a Hugging Face token",
        "hf_",
        r"\b(hf_[A-Za-z0-9]{34})\b",
        random
    ),
    token!(
        JWT,
        "a signed JSON Web Token",
        "eyJ",
        r"\b(eyJ[0-9A-Za-z_-]{8,2000}\.eyJ[0-9A-Za-z_-]{4,8000}\.[0-9A-Za-z_-]{16,2000})(?:[^0-9A-Za-z_-]|$)",
        jwt
    ),
    token!(
        CONNECTION,
        "a password in a connection string",
        "://",
        r#"(?i)\b(?:postgres(?:ql)?|mysql2?|mariadb|mongodb(?:\+srv)?|rediss?|amqps?|mssql|sqlserver|oracle|clickhouse|ldaps?|smtps?)(?:\+[a-z0-9]{1,16})?://[^\s:/@"'<>]{0,80}:([^\s/@"'<>]{4,120})@[\w\[$]"#,
        password
    ),
    token!(
        CONNECTION,
        "a password in a connection string",
        "password=",
        r#"(?i)(?:server|data source|host|jdbc:[a-z0-9:]{2,40})[^"'\n]{0,200}[;?&](?:password|pwd)=([^;&"'\s]{4,120})"#,
        password
    ),
    token!(
        CONNECTION,
        "a password in a connection string",
        "pwd=",
        r#"(?i)(?:server|data source|host|jdbc:[a-z0-9:]{2,40})[^"'\n]{0,200}[;?&]pwd=([^;&"'\s]{4,120})"#,
        password
    ),
    token!(
        URL,
        "a password in a URL",
        "://",
        r#"(?i)\b(?:https?|ftps?|sftp|ssh|git|svn)://[^\s:/@"'<>]{1,80}:([^\s/@"'<>]{4,120})@[\w\[]"#,
        password
    ),
];

/// Words that say that what is assigned is a secret; the flag marks passwords.
pub(super) static NAMES: &[(&str, bool)] = &[
    ("password", true),
    ("passwd", true),
    ("passphrase", true),
    ("pwd", true),
    ("secret", false),
    ("token", false),
    ("api_key", false),
    ("apikey", false),
    ("api-key", false),
    ("access_key", false),
    ("accesskey", false),
    ("access-key", false),
    ("auth_key", false),
    ("authkey", false),
    ("private_key", false),
    ("privatekey", false),
    ("encryption_key", false),
    ("encryptionkey", false),
    ("signing_key", false),
    ("signingkey", false),
    ("secret_key", false),
    ("secretkey", false),
    ("master_key", false),
    ("masterkey", false),
    ("credential", false),
    ("credentials", false),
];

/// What may stand between the word and the end of the name without changing what the name means.
pub(super) static TAILS: &[&str] = &[
    "",
    "value",
    "string",
    "str",
    "prod",
    "production",
    "live",
    "dev",
    "staging",
    "default",
    "plain",
    "const",
    "base64",
    "b64",
    "hex",
    "root",
    "admin",
    "db",
    "database",
    "key",
    "old",
    "new",
    "s",
];

/// A quoted literal after a name: assignment, comparison, entry of a map, argument of a setter.
pub(super) const QUOTED: &str = r#"(?i)([a-z0-9_.$-]{0,60}(?:passw(?:or)?d|passphrase|pwd|secret|token|key|credentials?)[a-z0-9_-]{0,24})["'\]]{0,2}\s{0,8}(?::\s{0,2}[a-z]{1,16}(?:<[a-z]{1,16}>)?\s{0,4}=|\[\s{0,2}\d{0,5}\s{0,2}\]\s{0,4}=|=>|:=|={1,3}|!==?|:|,|\(|\.equals\()\s{0,8}(?:new\s{1,4}String\(|b|u|r|f|@|L)?(?:"((?:[^"\\\n]|\\.){4,200})"|'((?:[^'\\\n]|\\.){4,200})'|`([^`\n]{4,200})`)"#;

/// A macro of C.
pub(super) const DEFINE: &str = r#"(?i)#\s{0,4}define\s{1,8}([a-z0-9_]{0,60}(?:passw(?:or)?d|passphrase|pwd|secret|token|key|credentials?)[a-z0-9_]{0,24})\s{1,40}L?"((?:[^"\\\n]|\\.){4,200})""#;

/// A value without quotes, alone on its line, as configuration files have it.
pub(super) const BARE: &str = r#"(?i)^\s{0,40}(?:export\s{1,4}|set\s{1,4}|-\s{1,4})?([a-z0-9_.-]{0,60}(?:passw(?:or)?d|passphrase|pwd|secret|token|key|credentials?)[a-z0-9_-]{0,24})\s{0,8}[:=]\s{0,8}([^\s"'<>,;(){}\[\]`]{6,200})\s{0,8}(?:#.{0,400}|;)?$"#;

/// An XML element or a `name`/`value` pair of attributes.
pub(super) const XML: &str = r#"(?i)(?:<([a-z0-9_.:-]{0,60}(?:passw(?:or)?d|passphrase|pwd|secret|token|key|credentials?)[a-z0-9_-]{0,24})(?:\s[^<>]{0,200})?>\s{0,8}([^<>\s]{6,200})\s{0,8}</|(?:name|key)\s{0,2}=\s{0,2}["']([a-z0-9_.:-]{0,60}(?:passw(?:or)?d|passphrase|pwd|secret|token|key|credentials?)[a-z0-9_-]{0,24})["']\s{1,8}value\s{0,2}=\s{0,2}["']([^"'<>]{6,200})["'])"#;
