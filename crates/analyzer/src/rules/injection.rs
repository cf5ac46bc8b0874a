//! Cards of the rules about text that another program interprets.

use crate::finding::{Example, Kind, Level, Rule};

pub(super) const SQL: Rule = Rule {
    id: "sql-injection",
    name: "SQL injection",
    kind: Kind::Taint,
    level: Level::Error,
    cwe: &[89, 943, 74],
    short: "outside data becomes part of the text of a SQL statement",
    why: "The database can't tell which words of a statement you wrote and which a stranger sent. A quote in the value \
          ends the string, and what follows is run as SQL: reading other people's rows, changing them, or logging in \
          without a password.",
    fix: "Keep the statement a constant and pass values as bound parameters; the driver then never parses them as SQL. \
          Names of tables and columns can't be bound: choose them from a fixed list in the code. Escaping by hand \
          depends on the database's mode and character set and is not a repair.",
    examples: &[
        Example {
            language: "java",
            vulnerable: "statement.executeQuery(\"SELECT * FROM t WHERE name = '\" + name + \"'\");",
            fixed: "PreparedStatement s = c.prepareStatement(\"SELECT * FROM t WHERE name = ?\");\ns.setString(1, name);\ns.executeQuery();",
        },
        Example {
            language: "python",
            vulnerable: "cursor.execute(f\"SELECT * FROM t WHERE name = '{name}'\")",
            fixed: "cursor.execute(\"SELECT * FROM t WHERE name = %s\", (name,))",
        },
        Example {
            language: "javascript",
            vulnerable: "db.query(`SELECT * FROM t WHERE name = '${name}'`)",
            fixed: "db.query('SELECT * FROM t WHERE name = ?', [name])",
        },
        Example {
            language: "c",
            vulnerable: "snprintf(sql, sizeof sql, \"SELECT * FROM t WHERE name = '%s'\", name);\nsqlite3_exec(db, sql, 0, 0, 0);",
            fixed: "sqlite3_prepare_v2(db, \"SELECT * FROM t WHERE name = ?\", -1, &s, 0);\nsqlite3_bind_text(s, 1, name, -1, SQLITE_TRANSIENT);",
        },
    ],
    limits: "Calls are followed within one file. A value that was checked by a function in another file is still \
             reported; a statement built in another file is not seen.",
    prior: 1.1,
};

pub(super) const COMMAND: Rule = Rule {
    id: "command-injection",
    name: "Command injection",
    kind: Kind::Taint,
    level: Level::Error,
    cwe: &[78, 77, 74],
    short: "outside data becomes part of a command that the system runs",
    why: "A shell splits its text at semicolons, pipes and backquotes. Whoever controls a part of the text runs any \
          program with the rights of this one. Even without a shell, the name of the program or an option such as \
          `--output` may be enough.",
    fix: "Use a library instead of a program where there is one. Otherwise start a fixed program without a shell and \
          pass values as separate arguments after `--`, chosen from or checked against what is allowed.",
    examples: &[
        Example {
            language: "java",
            vulnerable: "Runtime.getRuntime().exec(\"ping \" + host);",
            fixed: "if (!host.matches(\"[a-z0-9.-]{1,253}\")) throw new IllegalArgumentException();\nnew ProcessBuilder(\"ping\", \"--\", host).start();",
        },
        Example {
            language: "python",
            vulnerable: "os.system('ping ' + host)",
            fixed: "subprocess.run(['ping', '--', host], check=True)",
        },
        Example {
            language: "javascript",
            vulnerable: "child_process.exec('ping ' + host)",
            fixed: "child_process.execFile('ping', ['--', host])",
        },
        Example {
            language: "c",
            vulnerable: "snprintf(cmd, sizeof cmd, \"ping %s\", host);\nsystem(cmd);",
            fixed: "char *argv[] = {\"ping\", \"--\", host, NULL};\nposix_spawnp(&pid, \"ping\", NULL, NULL, argv, environ);",
        },
    ],
    limits: "Whether a list of arguments ends in a shell further on is not known; a fixed program that itself runs its \
             arguments is not recognised.",
    prior: 1.0,
};

pub(super) const XSS: Rule = Rule {
    id: "cross-site-scripting",
    name: "Cross-site scripting",
    kind: Kind::Taint,
    level: Level::Error,
    cwe: &[79, 80, 74],
    short: "outside data is written into a page without encoding",
    why: "The browser runs whatever script a page holds, with the session of whoever looks at it. A link or a stored \
          text that carries a script then acts as the victim: reads pages, sends forms, takes over the account.",
    fix: "Let a template engine with automatic escaping write the page, or encode the value for the place it goes to: \
          HTML text, attribute, script and address each need their own encoding. Set a Content-Security-Policy as a \
          second line.",
    examples: &[
        Example {
            language: "java",
            vulnerable: "response.getWriter().println(\"Hello \" + name);",
            fixed: "response.getWriter().println(\"Hello \" + Encode.forHtml(name));",
        },
        Example {
            language: "python",
            vulnerable: "return 'Hello ' + request.args['name']",
            fixed: "return 'Hello ' + markupsafe.escape(request.args['name'])",
        },
        Example {
            language: "javascript",
            vulnerable: "element.innerHTML = location.hash.slice(1)",
            fixed: "element.textContent = location.hash.slice(1)",
        },
    ],
    limits: "The content type of the response is not considered, and templates in files of their own are not read.",
    prior: 0.7,
};

pub(super) const LDAP: Rule = Rule {
    id: "ldap-injection",
    name: "LDAP injection",
    kind: Kind::Taint,
    level: Level::Error,
    cwe: &[90, 943, 74],
    short: "outside data becomes part of an LDAP filter or name",
    why: "Brackets, stars and bars have a meaning in an LDAP filter. With them a stranger widens the search: finds all \
          entries, reads attributes one character at a time, or passes a check of name and password.",
    fix: "Escape the value for filters (RFC 4515) or for names (RFC 4514) with the library's function, or use a search \
          call that takes arguments apart from the filter.",
    examples: &[
        Example {
            language: "java",
            vulnerable: "ctx.search(base, \"(uid=\" + user + \")\", controls);",
            fixed: "ctx.search(base, \"(uid={0})\", new Object[] {user}, controls);",
        },
        Example {
            language: "python",
            vulnerable: "conn.search(base, f'(uid={user})')",
            fixed: "conn.search(base, f'(uid={escape_filter_chars(user)})')",
        },
        Example {
            language: "javascript",
            vulnerable: "client.search(base, { filter: `(uid=${user})` }, done)",
            fixed: "client.search(base, { filter: new EqualityFilter({ attribute: 'uid', value: user }) }, done)",
        },
        Example {
            language: "c",
            vulnerable: "snprintf(filter, sizeof filter, \"(uid=%s)\", user);\nldap_search_ext_s(ld, base, scope, filter, 0, 0, 0, 0, 0, 0, &res);",
            fixed: "/* escape user by RFC 4515 into value first */\nsnprintf(filter, sizeof filter, \"(uid=%s)\", value);",
        },
    ],
    limits: "Escaping by a function of another file is not seen.",
    prior: 0.9,
};

pub(super) const XPATH: Rule = Rule {
    id: "xpath-injection",
    name: "XPath injection",
    kind: Kind::Taint,
    level: Level::Error,
    cwe: &[643, 91, 74],
    short: "outside data becomes part of an XPath expression",
    why: "An XPath expression can reach the whole document. A quote in the value ends the string, and `or '1'='1'` \
          selects every node; answers can be drawn out one question at a time.",
    fix: "Bind the value as a variable of the expression, or accept only characters that can't end a string, such as \
          letters and digits.",
    examples: &[
        Example {
            language: "java",
            vulnerable: "xpath.evaluate(\"//user[@name='\" + name + \"']\", doc);",
            fixed: "xpath.setXPathVariableResolver(q -> name);\nxpath.evaluate(\"//user[@name=$name]\", doc);",
        },
        Example {
            language: "python",
            vulnerable: "root.xpath(f\"//user[@name='{name}']\")",
            fixed: "root.xpath('//user[@name=$name]', name=name)",
        },
        Example {
            language: "javascript",
            vulnerable: "xpath.select(`//user[@name='${name}']`, doc)",
            fixed: "xpath.parse('//user[@name=$name]').select({ node: doc, variables: { name } })",
        },
    ],
    limits: "Replacing single characters by hand is not recognised as a repair.",
    prior: 0.9,
};

pub(super) const CODE: Rule = Rule {
    id: "code-injection",
    name: "Code injection",
    kind: Kind::Taint,
    level: Level::Error,
    cwe: &[94, 95, 913],
    short: "outside data is run as code",
    why: "Whoever controls the text of a program runs that program here, with all its rights: files, network, secrets \
          in memory. No filter of words has ever held for long.",
    fix: "Don't evaluate text from outside. Parse data with a data parser (`JSON.parse`, `ast.literal_eval`), choose \
          functions from a table by name, and take expression languages in their restricted form.",
    examples: &[
        Example {
            language: "java",
            vulnerable: "engine.eval(request.getParameter(\"formula\"));",
            fixed: "Formula f = FORMULAS.get(request.getParameter(\"formula\"));",
        },
        Example {
            language: "python",
            vulnerable: "value = eval(request.args['value'])",
            fixed: "value = ast.literal_eval(request.args['value'])",
        },
        Example {
            language: "javascript",
            vulnerable: "const options = eval('(' + req.query.options + ')')",
            fixed: "const options = JSON.parse(req.query.options)",
        },
    ],
    limits: "Sandboxes around the evaluation are not judged.",
    prior: 1.2,
};

pub(super) const FORMAT: Rule = Rule {
    id: "format-string",
    name: "Uncontrolled format string",
    kind: Kind::Taint,
    level: Level::Error,
    cwe: &[134, 20],
    short: "outside data is used as the format of a printing function",
    why: "Every `%` in a format makes the function take one more argument, given or not: `%x` prints the stack, `%s` \
          follows any pointer there, `%n` writes to memory. That is enough to read secrets and to take over the program.",
    fix: "Make the format a constant and pass the text as its argument: `printf(\"%s\", text)`.",
    examples: &[Example {
        language: "c",
        vulnerable: "printf(input);",
        fixed: "printf(\"%s\", input);",
    }],
    limits: "Formats chosen by a function of another file are not followed.",
    prior: 1.2,
};

pub(super) const NOSQL: Rule = Rule {
    id: "nosql-injection",
    name: "NoSQL injection",
    kind: Kind::Taint,
    level: Level::Error,
    cwe: &[943, 74],
    short: "outside data becomes part of a database query",
    why: "A query object from a request may hold operators instead of values: `{\"$ne\": null}` as a password matches \
          every user. Text given to `$where` is run as JavaScript inside the database.",
    fix: "Turn the value into the type you expect (`String(x)`, a number, an id) before it goes into the query, refuse \
          objects where a value is meant, and don't use `$where`.",
    examples: &[Example {
        language: "javascript",
        vulnerable: "users.findOne({ name: req.body.name, pin: req.body.pin })",
        fixed: "users.findOne({ name: String(req.body.name), pin: String(req.body.pin) })",
    }],
    limits: "Whether a body parser or a schema already refuses objects is not known.",
    prior: 0.2,
};

pub(super) const TEMPLATE: Rule = Rule {
    id: "template-injection",
    name: "Template injection",
    kind: Kind::Taint,
    level: Level::Error,
    cwe: &[1336, 94, 79],
    short: "outside data becomes part of a template",
    why: "A template is a program. Text between its brackets is evaluated on the server, and from there it is a short \
          way to the objects of the application and to running commands.",
    fix: "Keep templates constant and pass values as variables of the template.",
    examples: &[
        Example {
            language: "python",
            vulnerable: "render_template_string('Hello ' + name)",
            fixed: "render_template_string('Hello {{ name }}', name=name)",
        },
        Example {
            language: "javascript",
            vulnerable: "ejs.render('Hello ' + name)",
            fixed: "ejs.render('Hello <%= name %>', { name })",
        },
    ],
    limits: "Templates loaded by a name from outside are a matter of paths, not of this rule.",
    prior: 1.0,
};
