//! The refusal of a plain request to a WebSocket for people: a page of its own that needs nothing
//! else. Whatever comes from outside is text in it, never markup.

use crate::http1::head::RequestHead;
use crate::http1::{elements, weighed};
use crate::reason::Rejection;
use crate::ws::handshake::Fault;

/// The page's style, in the look of the hub's pages (`web/style.css`).
const STYLE: &str = include_str!("page.css");

/// What the page may do: show its own style (by its SHA-256), and nothing else.
const POLICY: &str = "default-src 'none'; style-src 'sha256-nSyqh1VTJ5PEecNGOHzmnMaf3k4HeIn04Ja8GPgpUyY='; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Fields that go with the page.
pub(crate) fn fields() -> [(&'static str, &'static str); 4] {
    [
        ("Content-Security-Policy", POLICY),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Vary", "Accept"),
    ]
}

/// True for a client that reads pages: it names their type, and likes it as much as JSON; a program
/// that takes anything does not.
pub(crate) fn is_wanted(head: &RequestHead) -> bool {
    let weight = |types: &[&str]| {
        let ranges = head.fields.named("accept").flat_map(elements).map(weighed);
        let named = ranges.filter(|(range, _)| {
            let mut types = types.iter();
            types.any(|name| range.eq_ignore_ascii_case(name.as_bytes()))
        });
        named.map(|(_, weight)| weight).max().unwrap_or(0)
    };
    let page = weight(&["text/html"]);
    page > 0 && page >= weight(&["application/json", "application/problem+json"])
}

/// The page.
pub(crate) fn render(rejection: &Rejection, fault: Fault) -> Vec<u8> {
    let status = rejection.reason.status();
    let title = rejection.reason.title();
    let (code, word) = (fault.code(), fault.word());
    let said = sentence(fault.said());
    let hint = sentence(fault.hint());
    let address = rejection.url.as_deref().map_or_else(String::new, |url| {
        let shown = escape(url);
        let call = escape(&format!("new WebSocket({})", serde_json::Value::from(url)));
        format!(
            "<h2>The WebSocket is at</h2>\n<p class=\"address\"><code>{shown}</code></p>\n\
             <p class=\"muted\">A browser opens it from a script: <code>{call}</code></p>\n"
        )
    });
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"robots\" content=\"noindex\">\n\
         <title>{status} {title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <p class=\"status\">{status} {title}</p>\n<h1>This address speaks WebSocket</h1>\n\
         <p>{said}</p>\n{address}<h2>What to do</h2>\n<p>{hint}</p>\n\
         <p class=\"code\">{code} <span>{word}</span></p>\n</main>\n</body>\n</html>\n",
        said = marked_up(&said),
        hint = marked_up(&hint),
    )
    .into_bytes()
}

/// A part of a sentence as a whole one.
fn sentence(part: &str) -> String {
    let mut letters = part.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    let end = if part.ends_with(';') { "" } else { "." };
    first.into_iter().chain(letters).collect::<String>() + end
}

/// Text as HTML; what stands between backticks is code.
fn marked_up(text: &str) -> String {
    let parts = text.split('`').enumerate();
    let parts = parts.map(|(place, part)| match place % 2 {
        0 => escape(part),
        _ => format!("<code>{}</code>", escape(part)),
    });
    parts.collect()
}

/// Text as HTML, also within an attribute.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::head::HeadLimits;
    use crate::reason::Reason;

    #[test]
    fn the_policy_allows_this_style_alone() {
        use base64::Engine;
        use sha2::Digest;
        let hash = sha2::Sha256::digest(STYLE.as_bytes());
        let hash = base64::engine::general_purpose::STANDARD.encode(hash);
        assert!(POLICY.contains(&format!("'sha256-{hash}'")), "{hash}");
        assert!(!STYLE.contains("url(") && !STYLE.contains("@import") && !STYLE.contains('<'));
    }

    #[test]
    fn pages_are_for_those_who_like_them_best() {
        let check = |accept: &str, wanted: bool| {
            let limits = HeadLimits {
                bytes: 1 << 14,
                fields: 64,
            };
            let text = format!("GET / HTTP/1.1\r\nHost: x\r\n{accept}\r\n");
            let head = RequestHead::parse(text.as_bytes(), limits).unwrap();
            assert_eq!(is_wanted(&head), wanted, "{accept}");
        };
        check("", false);
        check("Accept: */*\r\n", false);
        check("Accept: text/html, */*;q=0.8\r\n", true);
        check("Accept: application/json, Text/HTML\r\n", true);
        check(
            "Accept: application/json\r\nAccept: text/html;q=0.9\r\n",
            false,
        );
        check(
            "Accept: application/problem+json;q=0.5, text/html;level=1;q=0.6\r\n",
            true,
        );
        check("Accept: text/html;q=0\r\n", false);
    }

    #[test]
    fn backticks_become_code() {
        assert_eq!(
            marked_up("send `a<b` & go"),
            "send <code>a&lt;b</code> &amp; go"
        );
        for fault in Fault::ALL {
            let page = marked_up(fault.said()) + &marked_up(fault.hint());
            assert!(!page.contains('`'), "{fault:?}");
            assert_eq!(
                page.matches("<code>").count(),
                page.matches("</code>").count()
            );
        }
    }

    #[test]
    fn what_comes_from_outside_is_text() {
        let mut rejection = Rejection::new(Reason::WsPlainRequest, "");
        rejection.url = Some("ws://x/<script>alert('1')</script>?\"&a".to_owned());
        let page = String::from_utf8(render(&rejection, Fault::PlainRequest)).unwrap();
        assert!(!page.contains("<script"), "{page}");
        assert!(
            page.contains("ws://x/&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;?&quot;&amp;a")
        );
        assert!(!page.contains("src=") && !page.contains("href="), "{page}");
    }
}
