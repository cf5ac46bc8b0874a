//! Parsers of XML and whether they resolve external entities: a feature set on an object, asked for where it parses.

use crate::finding::Language;
use crate::rules;

use super::call::Site;
use super::machine::Machine;
use super::value::{Konst, Shape, Value};

/// Field of a parser's object that holds the feature.
const FEATURE: &str = "resolves external entities";

impl Machine<'_> {
    pub(super) fn xml_parser(&mut self, site: &Site) -> Option<Value> {
        if self.language != Language::Python {
            return None;
        }
        match &*self.names.shared(site.name) {
            "make_parser" | "XMLParser" => {
                let given = self.named_konst(site, "resolve_entities");
                let id = self.alloc(Shape::Record, site.sp);
                let feature = self.names.intern(FEATURE);
                self.state.change(id, |obj| {
                    obj.fields.insert(feature, Value::konst(given));
                });
                let mut value = Value::object(id);
                value.path = self.call_path(site);
                Some(value)
            }
            "setFeature" => {
                let external = site.args.first().is_some_and(|arg| {
                    self.names.text(arg.value.path).contains("feature_external")
                });
                let value = site.args.get(1)?.value.clone();
                let feature = self.names.intern(FEATURE);
                if external {
                    self.set_field(&site.recv.clone(), feature, value, site.sp);
                }
                Some(Value::default())
            }
            "parse" | "parseString" | "fromstring" | "XML" | "iterparse" => {
                let by_parser = self.resolves(&site.recv)
                    || site.args.iter().any(|arg| self.resolves(&arg.value));
                if by_parser
                    && let Some(document) = site.args.first()
                    && let Some(rule) = rules::taint_index("xml-external-entity")
                {
                    self.reach(rule, &document.value.clone(), document.sp, site);
                }
                None
            }
            _ => None,
        }
    }

    fn named_konst(&self, site: &Site, name: &str) -> Konst {
        site.args
            .iter()
            .find(|arg| arg.name.is_some_and(|given| self.names.text(given) == name))
            .map_or(Konst::Unknown, |arg| arg.value.konst.clone())
    }

    fn resolves(&self, parser: &Value) -> bool {
        parser.objs.iter().any(|id| {
            let field = self
                .names
                .get(FEATURE)
                .and_then(|name| self.state.obj(*id)?.fields.get(&name));
            field.is_some_and(|value| {
                value.konst == Konst::Bool(true) || value.konst == Konst::Int(1)
            })
        })
    }
}
