//! Cookies sent without the flags that protect them: a state of an object, not a flow.

use crate::finding::Language;
use crate::ir::Name;
use crate::rules;

use super::call::{Given, Site};
use super::machine::Machine;
use super::value::{Konst, Shape, Value};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flag {
    On,
    Off,
    Absent,
    Unknown,
}

impl Machine<'_> {
    /// Looks at a call that may send or change a cookie.
    pub(super) fn cookies(&mut self, site: &Site) {
        let name = self.names.shared(site.name);
        match (self.language, &*name) {
            (Language::Java, "addCookie") => self.java_cookie(site),
            (Language::Java, "secure" | "httpOnly") => self.java_builder(site, &name),
            (Language::Python, "set_cookie") => self.options(site, ("secure", "httponly")),
            (Language::JavaScript | Language::TypeScript { .. }, "cookie" | "setCookie") => {
                let path = self.names.text(site.recv.path);
                let hint = self.names.text(site.hint);
                if path.ends_with("Response")
                    || path.contains("cookies")
                    || matches!(hint, "res" | "response" | "reply")
                {
                    self.options(site, ("secure", "httpOnly"));
                }
            }
            (Language::JavaScript | Language::TypeScript { .. }, "set")
                if self.names.text(site.recv.path).ends_with("cookies") =>
            {
                self.options(site, ("secure", "httpOnly"));
            }
            _ => {}
        }
    }

    fn java_cookie(&mut self, site: &Site) {
        let Some(cookie) = site.args.first().map(|arg| arg.value.clone()) else {
            return;
        };
        let made = self.names.text(cookie.path) == "new.Cookie";
        if !made {
            return;
        }
        let secure = self.field_flag(&cookie, "secure");
        let http_only = self.field_flag(&cookie, "httpOnly");
        self.judge(site, secure, http_only);
    }

    fn field_flag(&self, cookie: &Value, name: &str) -> Flag {
        let [id] = cookie.objs.as_slice() else {
            return Flag::Unknown;
        };
        let Some(obj) = self.state.obj(*id) else {
            return Flag::Unknown;
        };
        let field = self
            .names
            .get(name)
            .and_then(|name: Name| obj.fields.get(&name));
        field.map_or(Flag::Absent, flag)
    }

    /// `ResponseCookie.from(…).secure(false)`
    fn java_builder(&mut self, site: &Site, name: &str) {
        if !self.names.text(site.recv.path).contains("ResponseCookie") {
            return;
        }
        let given = site
            .args
            .first()
            .map_or(Flag::Unknown, |arg| flag(&arg.value));
        match name {
            "secure" => self.judge(site, given, Flag::Unknown),
            _ => self.judge(site, Flag::Unknown, given),
        }
    }

    fn options(&mut self, site: &Site, names: (&'static str, &'static str)) {
        let secure = self.option_flag(site, names.0);
        let http_only = self.option_flag(site, names.1);
        self.judge(site, secure, http_only);
    }

    fn option_flag(&self, site: &Site, name: &'static str) -> Flag {
        let sel = [rules::model::Sel::Named(name)];
        let given: Vec<Given> = self.selected(site, &sel);
        if let Some(given) = given.first() {
            return flag(&given.value);
        }
        // Options that are not written here may hold anything.
        let opaque = site.args.iter().skip(2).any(|arg| {
            arg.name.is_none()
                && arg.value.objs.iter().all(|id| {
                    self.state
                        .obj(*id)
                        .is_none_or(|obj| obj.shape != Shape::Map)
                })
                && !arg.value.konst.is_known()
        });
        if opaque { Flag::Unknown } else { Flag::Absent }
    }

    fn judge(&mut self, site: &Site, secure: Flag, http_only: Flag) {
        for (flag, rule) in [
            (secure, "insecure-cookie"),
            (http_only, "cookie-without-httponly"),
        ] {
            let what = match flag {
                Flag::Off => "is set to false",
                Flag::Absent => "is never set",
                Flag::On | Flag::Unknown => continue,
            };
            if let Some(rule) = rules::pattern_index(rule) {
                self.add_misuse(rule, site, what.to_owned());
            }
        }
    }
}

fn flag(value: &Value) -> Flag {
    match value.konst {
        Konst::Bool(true) => Flag::On,
        Konst::Bool(false) | Konst::Null => Flag::Off,
        Konst::Unknown | Konst::Int(_) | Konst::Str(_) => Flag::Unknown,
    }
}
