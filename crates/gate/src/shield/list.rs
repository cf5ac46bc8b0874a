//! The list of what scanners ask for and call themselves. Our own, written from what is commonly
//! known of these tools and of the software that they look for; [`DATE`] says how old it is. docs/shield.md
//! tells how to add to it and how to switch parts of it off.

/// When the list was last looked through.
pub const DATE: &str = "2026-11-21";

/// Parts of user agents that only scanners have, as they write them: a name that may be a part of
/// an honest one has its slash.
pub(crate) const AGENTS: &[&str] = &[
    "sqlmap/",
    "Nikto",
    "gobuster/",
    "Fuzz Faster U Fool",
    "ffuf/",
    "Wfuzz/",
    "Nmap Scripting Engine",
    "nmap.org/book/nse",
    "masscan/",
    "masscan-ng/",
    "zgrab/",
    "Nuclei - ",
    "projectdiscovery",
    "feroxbuster/",
    "DirBuster",
    "dirsearch",
    "Dirb/",
    "WPScan",
    "WhatWeb/",
    "wapiti",
    "w3af.org",
    "Arachni/",
    "skipfish",
    "OpenVAS",
    "Nessus",
    "Acunetix",
    "Netsparker",
    "Invicti",
    "AppScan",
    "WebInspect",
    "Qualys",
    "joomscan",
    "JoomScan",
    "droopescan",
    "CMSmap",
    "commix/",
    "fimap/",
    "Havij",
    "sqlninja",
    "bsqlbf",
    "jaeles",
    "ZmEu",
    "Morfeus",
    "muieblackcat",
    "Jorgee",
    "l9explore/",
    "l9tcpid/",
    "LeakIX",
    "Hello, World",
    "xsstrike",
    "XSStrike",
    "dalfox",
    "kiterunner",
    "(Hydra)",
    "Medusa/",
    "patator",
    "uniscan",
    "golismero",
    "vulners",
    "Detectify",
    "tsunami-security-scanner",
    "TsunamiSecurityScanner",
];

/// What dirb calls itself: the whole user agent of a browser of 2001. It counts only where the
/// request was refused, since somebody may still have taken it from there.
pub(crate) const DIRB: &[u8] = b"Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1)";

/// How crawlers declare themselves; with a URL in the same user agent. Old links are their trade:
/// what nobody serves counts a quarter for them.
pub(crate) const CRAWLERS: &[&str] = &["bot", "crawl", "spider", "slurp", "archive"];

/// Methods that somebody registered (IANA's list of HTTP methods), but for those in [`ODD_METHODS`].
pub(crate) const METHODS: &[&str] = &[
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "COPY",
    "LABEL",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "ORDERPATCH",
    "PRI",
    "PROPFIND",
    "PROPPATCH",
    "QUERY",
    "REBIND",
    "REPORT",
    "SEARCH",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
    "PURGE",
];

/// Methods of which a site has none, registered or not.
pub(crate) const ODD_METHODS: &[&str] = &["TRACE", "TRACK", "DEBUG", "CONNECT"];

/// Endings of scripts that a server would run.
pub(crate) const SCRIPTS: &[&str] = &[
    "php", "php3", "php4", "php5", "php7", "php8", "phps", "pht", "phtml", "phar", "asp", "aspx",
    "ashx", "asmx", "asa", "axd", "jsp", "jspx", "jspf", "jhtml", "cfm", "cfc", "cgi", "pl",
    "fcgi",
];

/// Endings of copies, dumps and editors' leavings. A tilde at the end is one, too.
pub(crate) const LEFTOVERS: &[&str] = &[
    "bak", "bak1", "bak2", "bkp", "backup", "old", "orig", "swp", "swo", "sql", "sqlite",
    "sqlite3", "mdb", "dump", "inc", "rdb", "pem", "pfx", "kdbx", "ovpn", "htaccess", "htpasswd",
];

/// Names of files whose content is a secret: as a path's end, asked for by nobody who means well.
pub(crate) const SECRETS: &[&str] = &[
    "/.env",
    "/.env.local",
    "/.env.dev",
    "/.env.development",
    "/.env.prod",
    "/.env.production",
    "/.env.staging",
    "/.env.example",
    "/.env.backup",
    "/.env.bak",
    "/.env.old",
    "/.env.save",
    "/.aws/credentials",
    "/.aws/config",
    "/.git/config",
    "/.git-credentials",
    "/.gitconfig",
    "/.svn/entries",
    "/.svn/wc.db",
    "/.hg/hgrc",
    "/.htpasswd",
    "/.ssh/id_rsa",
    "/.ssh/id_ed25519",
    "/.ssh/authorized_keys",
    "/.bash_history",
    "/.mysql_history",
    "/.docker/config.json",
    "/.dockercfg",
    "/.kube/config",
    "/.npmrc",
    "/.pgpass",
    "/.netrc",
    "/wp-config.php.bak",
    "/wp-config.php~",
    "/wp-config.php.save",
    "/id_rsa",
];

/// First segments of the administrators' pages and weak spots of well-known software, in lower case.
/// Words that a site may well have of its own (`admin`, `console`, `vendor`) stand only with what follows.
pub(crate) const ADMIN: &[&str] = &[
    "wp-admin",
    "wp-login.php",
    "wp-config.php",
    "xmlrpc.php",
    "phpmyadmin",
    "phpmyadmin2",
    "pma",
    "myadmin",
    "mysqladmin",
    "dbadmin",
    "adminer",
    "adminer.php",
    "sqladmin",
    "phppgadmin",
    "administrator",
    "cgi-bin",
    "cgi-sys",
    "_vti_bin",
    "_vti_pvt",
    "iisadmin",
    "iissamples",
    "msadc",
    "server-status",
    "server-info",
    "manager/html",
    "manager/status",
    "host-manager",
    "jmx-console",
    "web-console",
    "jbossws",
    "invoker",
    "solr/admin",
    "struts2-showcase",
    "actuator",
    "jolokia",
    "hnap1",
    "boaform",
    "goform",
    "gponform",
    "webshell",
    "vendor/phpunit",
    "_ignition",
    "_profiler",
    "owa/auth",
    "dana-na",
    "remote/login",
    "remote/fgt_lang",
    "geoserver/web",
    "druid/index.html",
    "nacos/v1",
    "evox/about",
    "phpinfo",
    "phpinfo.php",
    "phpunit",
    "elmah.axd",
    "trace.axd",
    "web-inf",
    "meta-inf",
    "etc/passwd",
    "etc/shadow",
];

/// Last segments that clients ask for by themselves: that they are not there means nothing.
pub(crate) const EXPECTED: &[&str] = &[
    "favicon.ico",
    "favicon.png",
    "favicon.svg",
    "robots.txt",
    "humans.txt",
    "security.txt",
    "ads.txt",
    "app-ads.txt",
    "manifest.json",
    "site.webmanifest",
    "manifest.webmanifest",
    "browserconfig.xml",
    "crossdomain.xml",
    "clientaccesspolicy.xml",
    "opensearch.xml",
    "service-worker.js",
    "sw.js",
    "rss.xml",
    "atom.xml",
    "feed.xml",
    "feed",
    "rss",
    "apple-app-site-association",
    "wpad.dat",
];

/// Endings of what pages are made of. Those of one folder that are missing count as one path: a
/// page with broken pictures is no search.
pub(crate) const ASSETS: &[&str] = &[
    "png", "jpg", "jpeg", "gif", "webp", "avif", "svg", "ico", "bmp", "css", "js", "mjs", "map",
    "woff", "woff2", "ttf", "otf", "eot", "mp3", "mp4", "webm", "ogg", "m3u8", "ts", "wasm", "pdf",
];

/// SQL, in a target that was decoded, put in lower case, with `+`, comments and runs of blanks as
/// one blank. What a person may look for on a page about SQL is left out as far as it can be.
pub(crate) const SQL: &[&str] = &[
    r"\bunion (all |distinct )?\(?select\b",
    r"\b(information_schema\.|sqlite_master|sysobjects|syscolumns|pg_catalog\.|xp_cmdshell|dbms_pipe|utl_inaddr|utl_http)",
    r"\bselect\b[^&]*\bfrom (dual|mysql\.|sys\.|msysaccessobjects|rdb\$)",
    r"\bwaitfor delay\b|\bpg_sleep ?\(|\bsleep ?\( ?\d|\bbenchmark ?\( ?\d|\brandomblob ?\(|\bextractvalue ?\(|\bupdatexml ?\(|\bload_file ?\(|\bgroup_concat ?\(|\bprocedure analyse ?\(|\bgtid_subset ?\(|\bjson_keys ?\(\(",
    r"\binto (out|dump)file\b|@@(version|datadir|hostname|basedir)\b",
    r"\b(and|or|having|where|rlike|when) \(?(not )?\(?'?\d+'? ?(=|<|>|like) ?'?\d+",
    r"' ?\)* ?(and|or) \(?'[^'&]*' ?(=|like) ?'|\x22 ?\)* ?or \(?\x22[a-z0-9]*\x22 ?= ?\x22",
    r"['\x22] ?\)* ?;?--( -| [a-z]{4})?(&|$)|'#(&|$)",
    r"\border by \d+ ?(--|#)",
    r"; ?(drop (table|database)|truncate table|alter table|insert into|delete from|update [a-z_]+ set|exec(ute)? ?[ (]|declare @|select (pg_sleep|sleep|case|benchmark))",
    r"\bselect ?\(? ?(char ?\(|chr ?\(|concat ?\(|@@|0x[0-9a-f]{4}|null ?,)",
    r"\bcase when \(?[^&]*\bthen\b|\|\|chr\(\d+\)|\+char\(\d+\)|char\(\d+\)\+",
];

/// Markup and JavaScript, in the same text.
pub(crate) const MARKUP: &[&str] = &[
    r"</?(script|iframe|svg|object|embed|applet|marquee|frameset)\b",
    r"<[a-z]+\b[^>&]*\bon[a-z]+ ?=",
    r"\bon(error|load|click|mouseover|mouseenter|focus|toggle|begin|animationstart) ?= ?['\x22]?(alert|prompt|confirm|eval|fetch|javascript)",
    r"javascript:[^&]*(alert|prompt|confirm|eval|document|window|fetch) ?[(.]",
    r"\b(alert|prompt|confirm) ?\( ?(['\x22\d`/]|document|string)",
    r"document\.(cookie|domain|write)\b|string\.fromcharcode ?\(",
    r"['\x22] ?/?> ?<|<'\x22>",
];

/// Commands, PHP, templates, requests that a server should make, in the same text.
pub(crate) const CODE: &[&str] = &[
    r"[;|`] ?(cat|ls|wget|curl|nc|ncat|bash|sh|ping|uname|nslookup|dig|python|perl|php|tftp|chmod|rm) +(-|/|\.\./|http)",
    r"(\$\(|`) ?(id|whoami|cat|curl|wget|sleep|printf|nslookup|uname|expr)\b",
    r"[;|`] ?(whoami|ifconfig|ipconfig)\b|\bcmd(\.exe)?[ ?]/c|\bpowershell(\.exe)? -|\$\{?ifs\b",
    r"/bin/(ba|c|k|z|da|a)?sh( -|[;|&'\x22)])",
    r"<\?(php|=)|\bphp://(input|filter|memory)|\b(expect|phar)://|\bdata:text/(plain|html);base64",
    r"\b(base64_decode|passthru|shell_exec|proc_open|pcntl_exec|phpinfo|call_user_func(_array)?|file_put_contents) ?\(|\bsystem ?\(['\x22]",
    r"\b(auto_prepend_file|allow_url_include)\b|think\\+app|invokefunction",
    r"class\.module\.classloader|#_memberaccess|java\.lang\.(runtime|processbuilder)|getruntime ?\(|freemarker\.template",
    r"\{\{[^}]*(\d+ ?\* ?\d+|config\.|self\.|request\.|__class__|lipsum|cycler)|[$#@]\{ ?\d+ ?\* ?\d+ ?\}|<%= ?\d+ ?\* ?\d+",
    r"__class__\.|__proto__[\[.]|constructor\[prototype|__globals__|__builtins__|__import__ ?\(|__subclasses__ ?\(",
    r"169\.254\.169\.254|metadata\.google\.internal|\b(gopher|dict|netdoc)://|=file:///",
    r"=(https?|ftp)://[^&]*\.(txt|php|jpg|gif|dat)\?+(&|$)",
    r"<!entity |<!--#(exec|include|echo)",
];

/// What a target climbs to, in the same text.
pub(crate) const SYSTEM_FILES: &[&str] = &[
    r"/etc/(passwd|shadow|master\.passwd|issue)\b|/proc/(self/(environ|cmdline|fd)|version)\b",
    r"[/\\=](boot|win)\.ini\b|(windows|winnt)[/\\]+(win\.ini|system\.ini|system32[/\\])",
    r"(\.\.[/\\]+){3}|\.\.[/\\]+[^&]*(etc/|windows|passwd|\.ini\b|\.conf\b|web-inf|proc/|\.env\b|\.git\b)",
    r"\bweb-inf/(web\.xml|classes|lib)|\.\.\.\.//",
];

/// Encodings that hide something, in a target as it came, in lower case. A pair such as `%c0%af` is
/// a letter in EUC-KR, so it counts only beside dots.
pub(crate) const TRICKS: &[&str] = &[
    r"%00|%2500",
    r"(\.\.|%2e%2e|%2e\.|\.%2e)(%2f|%5c|%c0%af|%c1%9c|%e0%80%af|%c0%2f|%c1%1c)",
    r"%c0%ae(%c0%ae|/|%c0%af|%2f)|%e0%80%a[ef]|%f0%80%80%a[ef]",
    r"%25(25)*(2e|5c)|%%32%65|%%35%63",
    r"%u00(2e|2f|5c|27|3c|22)|%u(2215|2216|ff0e|ff0f)",
    r"%2e%2e/|/%2e%2e|/%2e/|/\.%2e|/%2e\.",
];

/// Look-ups of Log4j, in a decoded target and in header fields, in lower case: plain, or put
/// together from pieces.
pub(crate) const LOOKUPS: &[&str] = &[
    r"\$\{ ?jndi ?:",
    r"\$\{[^}]*\$\{[^}]*:-?",
    r"\$\{ ?(lower|upper|env|sys|java|date|ctx|main|bundle|base64|web|docker|k8s) ?:",
    r"\$\{[^}]*::?-",
];
