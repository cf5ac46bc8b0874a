//! Rule cards of the secrets engine.

use crate::finding::{Example, Kind, Level, Rule};

const WHY: &str = "Whoever can read the file has the secret: everyone with the source, its history, a backup, a build \
log or the shipped program. It keeps working after the person who wrote it has left, it cannot be changed without a \
release, and scanners look for exactly such strings in public repositories minutes after a push.";

const FIX: &str = "Treat the secret as known to others: revoke it where it was issued and make a new one. Keep the new \
one outside the source: in a secret store, a file that only the service can read, or an environment variable set by \
the deployment. Removing the line is not enough, since the history keeps it.";

const LIMITS: &str = "The value is judged by its form; whether it is still valid was not tried. Values that look like \
placeholders, references to variables or sample values of a vendor's documentation are not reported.";

const EXAMPLES: &[Example] = &[
    Example {
        language: "java",
        vulnerable: "private static final String API_KEY = \"live-4f9a…\";",
        fixed: "private static final String API_KEY = System.getenv(\"PAYMENT_API_KEY\");",
    },
    Example {
        language: "python",
        vulnerable: "API_KEY = \"live-4f9a…\"",
        fixed: "API_KEY = os.environ[\"PAYMENT_API_KEY\"]",
    },
    Example {
        language: "javascript",
        vulnerable: "const apiKey = 'live-4f9a…';",
        fixed: "const apiKey = process.env.PAYMENT_API_KEY;",
    },
    Example {
        language: "c",
        vulnerable: "#define API_KEY \"live-4f9a…\"",
        fixed: "const char *api_key = getenv(\"PAYMENT_API_KEY\");",
    },
];

macro_rules! rules {
    ($($const:ident: $id:literal, $name:literal, $level:ident, $cwe:expr, $prior:literal, $short:literal;)*) => {
        $(pub(super) static $const: Rule = Rule {
            id: $id,
            name: $name,
            kind: Kind::Secret,
            level: Level::$level,
            cwe: &$cwe,
            short: $short,
            why: WHY,
            fix: FIX,
            examples: EXAMPLES,
            limits: LIMITS,
            prior: $prior,
        };)*
        /// All rules of the secrets engine.
        pub(super) static ALL: &[&Rule] = &[$(&$const),*];
    };
}

rules! {
    AWS: "secret-aws-key", "AWS access key in the source", Error, [798], 1.6,
        "A key of an Amazon Web Services account is written in the file.";
    AZURE: "secret-azure-key", "Azure storage key in the source", Error, [798], 1.8,
        "The account key of an Azure storage account is written in the file.";
    GCP: "secret-google-key", "Google API key in the source", Error, [798], 1.2,
        "A key of a Google Cloud project or OAuth client is written in the file.";
    CLOUD: "secret-cloud-token", "Cloud provider token in the source", Error, [798], 1.8,
        "A token of a hosting or data platform is written in the file.";
    GITHUB: "secret-github-token", "GitHub token in the source", Error, [798], 1.6,
        "A token that acts for a GitHub user or app is written in the file.";
    GITLAB: "secret-gitlab-token", "GitLab token in the source", Error, [798], 1.8,
        "A token that acts for a GitLab user or runner is written in the file.";
    PACKAGES: "secret-package-registry-token", "Package registry token in the source", Error, [798], 1.8,
        "A token that can publish packages is written in the file.";
    CHAT: "secret-chat-token", "Chat service token in the source", Error, [798], 1.8,
        "A bot token or webhook address of a chat service is written in the file.";
    PAYMENT: "secret-payment-key", "Payment service key in the source", Error, [798], 1.8,
        "A key that can move money at a payment service is written in the file.";
    MAIL: "secret-messaging-key", "Mail or telephony key in the source", Error, [798], 1.6,
        "A key that can send messages in your name is written in the file.";
    AI: "secret-ai-service-key", "AI service key in the source", Error, [798], 1.8,
        "A key of a paid language-model service is written in the file.";
    PRIVATE_KEY: "secret-private-key", "Private key in the source", Error, [798, 321], 2.0,
        "A private key is written in the file.";
    JWT: "secret-jwt", "Signed token in the source", Warning, [798], 0.2,
        "A signed JSON Web Token is written in the file.";
    CONNECTION: "secret-connection-string", "Password in a connection string", Error, [798, 259], 0.8,
        "A connection string holds a user's password.";
    URL: "secret-url-credentials", "Password in a URL", Warning, [798, 259], 0.4,
        "A URL holds a user's password.";
    PASSWORD: "secret-password", "Password in the source", Warning, [798, 259], 0.0,
        "A password is written in the file as a literal.";
    GENERIC: "secret-generic-key", "Secret or key in the source", Warning, [798, 321], 0.0,
        "A value named as a secret, token or key is written in the file as a literal.";
}
