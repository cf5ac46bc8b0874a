//! Cards of the rules about what a value may reach: files, objects, servers, sessions.

use crate::finding::{Example, Kind, Level, Rule};

pub(super) const PATH: Rule = Rule {
    id: "path-traversal",
    name: "Path traversal",
    kind: Kind::Taint,
    level: Level::Error,
    cwe: &[22, 23, 36, 73],
    short: "outside data becomes part of the path of a file",
    why: "`..` climbs out of the folder you meant, and an absolute path ignores it. A stranger then reads \
          configuration, keys and passwords, or writes where a program will run what was written.",
    fix: "Don't make names of files from outside data: keep a table from ids to files. Where a name must come from \
          outside, take its last part only, join it to the folder, make the result canonical and refuse it unless it \
          still lies in the folder.",
    examples: &[
        Example {
            language: "java",
            vulnerable: "new FileInputStream(new File(dir, name));",
            fixed: "Path p = dir.resolve(name).normalize();\nif (!p.startsWith(dir)) throw new IllegalArgumentException();\nFiles.newInputStream(p);",
        },
        Example {
            language: "python",
            vulnerable: "open(os.path.join(folder, name))",
            fixed: "path = os.path.realpath(os.path.join(folder, name))\nif not path.startswith(folder + os.sep):\n    abort(404)\nopen(path)",
        },
        Example {
            language: "javascript",
            vulnerable: "fs.readFile(folder + '/' + req.query.name, done)",
            fixed: "fs.readFile(path.join(folder, path.basename(req.query.name)), done)",
        },
        Example {
            language: "c",
            vulnerable: "snprintf(path, sizeof path, \"/srv/%s\", name);\nfopen(path, \"r\");",
            fixed: "if (strchr(name, '/') || !strcmp(name, \"..\")) return -1;\nsnprintf(path, sizeof path, \"/srv/%s\", name);\nfopen(path, \"r\");",
        },
    ],
    limits: "Links inside the folder are not considered. A program whose purpose is to open the file its user names on \
             the command line is reported with a lower score.",
    prior: 0.6,
};

pub(super) const DESERIALIZATION: Rule = Rule {
    id: "unsafe-deserialization",
    name: "Deserialisation of outside data",
    kind: Kind::Taint,
    level: Level::Error,
    cwe: &[502, 915],
    short: "outside data is turned into objects by a format that can run code",
    why: "Some formats name the class of each object and call its code while reading. With the libraries most programs \
          carry, a prepared stream runs any command before the first line of yours sees the result.",
    fix: "Use a data format without classes (JSON, protobuf) and build your objects from it. Where the format can't be \
          changed, allow a short list of classes (an `ObjectInputFilter`, `SafeLoader`) and sign the data.",
    examples: &[
        Example {
            language: "java",
            vulnerable: "Object o = new ObjectInputStream(request.getInputStream()).readObject();",
            fixed: "Order o = new ObjectMapper().readValue(request.getInputStream(), Order.class);",
        },
        Example {
            language: "python",
            vulnerable: "data = pickle.loads(request.data)",
            fixed: "data = json.loads(request.data)",
        },
        Example {
            language: "javascript",
            vulnerable: "const data = serialize.unserialize(req.cookies.profile)",
            fixed: "const data = JSON.parse(req.cookies.profile)",
        },
    ],
    limits: "Filters set for the whole process are not seen.",
    prior: 1.0,
};

pub(super) const TRUST_BOUNDARY: Rule = Rule {
    id: "trust-boundary-violation",
    name: "Trust boundary violation",
    kind: Kind::Taint,
    level: Level::Warning,
    cwe: &[501, 20],
    short: "outside data is put into the session unchecked",
    why: "Other code takes what is in a session as its own: checked, and belonging to this user. A value or a name of \
          an attribute straight from the request breaks that promise, and the mistake shows far away from here.",
    fix: "Check the value before it is stored, use constant names for attributes, and keep what the user said apart \
          from what the server knows.",
    examples: &[
        Example {
            language: "java",
            vulnerable: "request.getSession().setAttribute(\"role\", request.getParameter(\"role\"));",
            fixed: "Role role = Role.valueOf(request.getParameter(\"role\"));\nif (user.mayTake(role)) request.getSession().setAttribute(\"role\", role);",
        },
        Example {
            language: "python",
            vulnerable: "session['role'] = request.form['role']",
            fixed: "role = request.form['role']\nif role in allowed_roles(user):\n    session['role'] = role",
        },
    ],
    limits: "What is stored is reported whether or not it is later trusted.",
    prior: 0.0,
};

pub(super) const REDIRECT: Rule = Rule {
    id: "open-redirect",
    name: "Open redirect",
    kind: Kind::Taint,
    level: Level::Warning,
    cwe: &[601, 20],
    short: "outside data decides where the browser is sent",
    why: "A link to your own, trusted site that ends on a stranger's page makes every fraud more convincing, and hands \
          over codes that login services put into addresses.",
    fix: "Redirect only to paths of your own: accept names of pages from a list, or refuse everything that doesn't \
          start with a single `/`.",
    examples: &[
        Example {
            language: "java",
            vulnerable: "response.sendRedirect(request.getParameter(\"next\"));",
            fixed: "response.sendRedirect(PAGES.getOrDefault(request.getParameter(\"next\"), \"/\"));",
        },
        Example {
            language: "python",
            vulnerable: "return redirect(request.args['next'])",
            fixed: "return redirect(PAGES.get(request.args['next'], '/'))",
        },
        Example {
            language: "javascript",
            vulnerable: "res.redirect(req.query.next)",
            fixed: "res.redirect(PAGES[req.query.next] || '/')",
        },
    ],
    limits: "A constant start of the address that already fixes the host is taken into account only where it is written \
             in the same expression.",
    prior: 0.2,
};

pub(super) const REQUEST_FORGERY: Rule = Rule {
    id: "server-side-request-forgery",
    name: "Server-side request forgery",
    kind: Kind::Taint,
    level: Level::Warning,
    cwe: &[918, 441],
    short: "outside data decides which server this one asks",
    why: "Your server reaches what strangers can't: internal services, the cloud's metadata with its keys, databases \
          without passwords. An address from outside makes it their messenger.",
    fix: "Choose the host from a list in the code. Where addresses must be free, resolve the name once, refuse private \
          ranges, connect to the address you checked, and don't follow redirects.",
    examples: &[
        Example {
            language: "java",
            vulnerable: "new URL(request.getParameter(\"feed\")).openStream();",
            fixed: "FEEDS.get(request.getParameter(\"feed\")).openStream();",
        },
        Example {
            language: "python",
            vulnerable: "requests.get(request.args['feed'])",
            fixed: "requests.get(FEEDS[request.args['feed']])",
        },
        Example {
            language: "javascript",
            vulnerable: "axios.get(req.query.feed)",
            fixed: "axios.get(FEEDS[req.query.feed])",
        },
    ],
    limits: "Rules of the network that would stop the request are not known.",
    prior: 0.3,
};

pub(super) const XML_ENTITY: Rule = Rule {
    id: "xml-external-entity",
    name: "XML external entities",
    kind: Kind::Taint,
    level: Level::Error,
    cwe: &[611, 827],
    short: "outside XML is read by a parser that resolves external entities",
    why: "An entity in a document may name a file or an address. A parser that follows it puts local files into the \
          result, asks internal servers, or fills the memory.",
    fix: "Turn off document types or external entities in the parser, or use a parser that never resolves them.",
    examples: &[Example {
        language: "python",
        vulnerable: "parser.setFeature(xml.sax.handler.feature_external_ges, True)\nparser.parse(io.StringIO(request.form['doc']))",
        fixed: "parser.setFeature(xml.sax.handler.feature_external_ges, False)\nparser.parse(io.StringIO(request.form['doc']))",
    }],
    limits: "Only parsers whose features are set in the same function are judged.",
    prior: 0.8,
};

pub(super) const LIBRARY: Rule = Rule {
    id: "untrusted-library",
    name: "Library loaded from outside data",
    kind: Kind::Taint,
    level: Level::Error,
    cwe: &[114, 426, 427],
    short: "outside data decides which library is loaded",
    why: "Loading a library runs its code at once. Whoever chooses the name or the folder runs their own code in this \
          process.",
    fix: "Load libraries by constant absolute paths from folders that only the administrator can write.",
    examples: &[Example {
        language: "c",
        vulnerable: "dlopen(getenv(\"PLUGIN\"), RTLD_NOW);",
        fixed: "dlopen(\"/usr/lib/app/plugin.so\", RTLD_NOW);",
    }],
    limits: "The search path of the loader itself is not judged.",
    prior: 0.8,
};
