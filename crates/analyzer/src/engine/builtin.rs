//! Collections and growing text, whatever the language calls their methods.

use std::rc::Rc;

use crate::finding::{Language, StepKind};
use crate::ir::Name;

use super::call::Site;
use super::fold;
use super::machine::{Machine, Say};
use super::value::{Konst, Obj, ObjId, Shape, Value};

/// What a known collection type is.
fn shape_of(name: &str) -> Option<Shape> {
    Some(match name {
        "ArrayList"
        | "LinkedList"
        | "Vector"
        | "Stack"
        | "ArrayDeque"
        | "CopyOnWriteArrayList"
        | "PriorityQueue"
        | "ArrayBlockingQueue"
        | "LinkedBlockingQueue"
        | "ConcurrentLinkedQueue"
        | "HashSet"
        | "LinkedHashSet"
        | "TreeSet"
        | "list"
        | "deque"
        | "Array"
        | "Set"
        | "set"
        | "tuple" => Shape::List,
        "HashMap"
        | "LinkedHashMap"
        | "TreeMap"
        | "Hashtable"
        | "ConcurrentHashMap"
        | "Properties"
        | "WeakHashMap"
        | "LinkedMultiValueMap"
        | "Map"
        | "dict"
        | "OrderedDict"
        | "defaultdict"
        | "ConfigParser"
        | "RawConfigParser"
        | "SafeConfigParser"
        | "ModelMap"
        | "WeakMap" => Shape::Map,
        "StringBuilder"
        | "StringBuffer"
        | "StringWriter"
        | "StringIO"
        | "ByteArrayOutputStream"
        | "BytesIO"
        | "CharArrayWriter"
        | "StringJoiner" => Shape::Buffer,
        _ => return None,
    })
}

/// C functions that give new memory.
fn is_allocation(name: &str) -> bool {
    matches!(
        name,
        "malloc"
            | "calloc"
            | "alloca"
            | "ALLOCA"
            | "__builtin_alloca"
            | "xmalloc"
            | "xcalloc"
            | "g_malloc"
            | "g_malloc0"
    )
}

impl Machine<'_> {
    pub(super) fn builtin(&mut self, site: &Site) -> Option<Value> {
        let name = self.names.shared(site.name);
        if self.language == Language::C {
            return is_allocation(&name).then(|| Value::object(self.alloc(Shape::Buffer, site.sp)));
        }
        let recv = self.names.text(site.recv.path);
        let plain = site.recv_expr.is_none() || name.starts_with(char::is_uppercase);
        let makes = recv == "new"
            || (self.language == Language::Python && plain && site.recv.objs.is_empty());
        if makes && let Some(shape) = shape_of(&name) {
            return Some(self.collection(shape, site));
        }
        if let Some(made) = self.literal_list(&name, site) {
            return Some(made);
        }
        let [id] = site.recv.objs.as_slice() else {
            return None;
        };
        let id = *id;
        match self.state.obj(id)?.shape {
            Shape::List => self.list_method(id, &name, site),
            Shape::Map => self.map_method(id, &name, site),
            Shape::Buffer => self.buffer_method(id, &name, site),
            Shape::Record => self.record_method(id, &name, site),
            _ => None,
        }
    }

    /// A new collection, with what it is made from.
    fn collection(&mut self, shape: Shape, site: &Site) -> Value {
        let id = self.alloc(shape, site.sp);
        if let Some(arg) = site.args.first() {
            let from = arg
                .value
                .objs
                .first()
                .and_then(|from| self.state.obj(*from))
                .cloned();
            let own = match shape {
                Shape::Buffer => {
                    let mut own = self.deep(&arg.value);
                    own.konst = arg.value.konst.clone();
                    if matches!(own.konst, Konst::Int(_)) {
                        own.konst = Konst::Str(Rc::from(""));
                    }
                    own
                }
                _ => arg.value.derived(),
            };
            self.state.change(id, |obj| {
                if let Some(from) = from {
                    obj.items = from.items;
                    obj.fields = from.fields;
                    obj.exact = from.exact;
                    obj.rest = from.rest;
                }
                if own.is_tainted() || own.konst.is_known() {
                    obj.spill(&own);
                }
            });
        } else if shape == Shape::Buffer {
            self.state.change(id, |obj| obj.rest = Value::text(""));
        }
        let mut value = Value::object(id);
        value.path = self.names.join(self.known.new, site.name);
        value
    }

    /// `Arrays.asList(…)`, `List.of(…)`, `Map.of(…)`.
    fn literal_list(&mut self, name: &str, site: &Site) -> Option<Value> {
        let recv = self.names.text(site.recv.path);
        let makes = matches!(
            (recv.rsplit('.').next().unwrap_or(recv), name),
            ("Arrays", "asList")
                | (
                    "List" | "Set" | "ImmutableList" | "ImmutableSet" | "Stream" | "Array",
                    "of" | "copyOf" | "from"
                )
                | (
                    "Collections",
                    "singletonList" | "singleton" | "unmodifiableList" | "unmodifiableSet"
                )
        );
        if !makes {
            return None;
        }
        if let [only] = site.args.as_slice()
            && !only.value.objs.is_empty()
        {
            return Some(only.value.clone());
        }
        let id = self.alloc(Shape::List, site.sp);
        for arg in &site.args {
            let value = arg.value.clone();
            self.state.change(id, |obj| obj.push(value));
        }
        Some(Value::object(id))
    }

    fn stored(&mut self, site: &Site, at: usize) -> Value {
        let mut value = site
            .args
            .get(at)
            .map(|arg| arg.value.clone())
            .unwrap_or_default();
        self.note(&mut value, StepKind::Field, site.sp, Say::Stored(site.hint));
        value
    }

    fn loaded(&mut self, mut value: Value, site: &Site) -> Value {
        self.note(&mut value, StepKind::Field, site.sp, Say::Loaded(site.hint));
        value
    }

    #[expect(clippy::too_many_lines, reason = "one arm per method: a table")]
    fn list_method(&mut self, id: ObjId, name: &str, site: &Site) -> Option<Value> {
        let index = |at: usize| {
            site.args
                .get(at)
                .map_or(Konst::Unknown, |arg| arg.value.konst.clone())
        };
        let count = site.args.len();
        let value = match (name, count) {
            (
                "add" | "append" | "push" | "offer" | "addLast" | "addElement" | "offerLast"
                | "put",
                1..,
            ) if !(name == "add" && count == 2) => {
                for at in 0..count {
                    let value = self.stored(site, at);
                    self.state.change(id, |obj| obj.push(value));
                }
                Value::default()
            }
            ("add" | "insert" | "insertElementAt", 2)
            | ("addFirst" | "unshift" | "offerFirst" | "appendleft", 1) => {
                let value = self.stored(site, count - 1);
                let at = if count == 1 { Konst::Int(0) } else { index(0) };
                self.state.change(id, |obj| insert(obj, &at, value));
                Value::default()
            }
            ("addAll" | "extend", 1) => {
                let from = site
                    .args
                    .first()
                    .map(|arg| arg.value.clone())
                    .unwrap_or_default();
                match self.items(&from) {
                    Some(items) => self
                        .state
                        .change(id, |obj| items.into_iter().for_each(|item| obj.push(item))),
                    None => {
                        let all = self.element(&from);
                        self.state.change(id, |obj| {
                            obj.collapse();
                            obj.spill(&all);
                        });
                    }
                }
                Value::default()
            }
            ("set" | "setElementAt", 2) => {
                let (at, which) = if name == "set" {
                    (index(0), 1)
                } else {
                    (index(1), 0)
                };
                let value = self.stored(site, which);
                self.set_index(&Value::object(id), &Value::konst(at), value, site.sp);
                Value::default()
            }
            ("get" | "elementAt" | "at", 1) => {
                let value = self.element_at(&site.recv, &index(0));
                self.loaded(value, site)
            }
            ("getFirst" | "firstElement" | "peek" | "element" | "peekFirst", 0) => {
                let value = self.element_at(&site.recv, &Konst::Int(0));
                self.loaded(value, site)
            }
            ("getLast" | "lastElement" | "peekLast", 0) => {
                let value = self.element_at(&site.recv, &Konst::Int(-1));
                self.loaded(value, site)
            }
            (
                "pop" | "remove" | "shift" | "poll" | "removeFirst" | "removeLast" | "pollFirst"
                | "popleft" | "pollLast",
                _,
            ) => {
                return Some(self.list_remove(id, name, site));
            }
            ("clear" | "removeAllElements", _) => {
                self.state.change(id, |obj| {
                    obj.items.clear();
                    obj.rest = Value::default();
                    obj.exact = true;
                });
                Value::default()
            }
            ("next" | "nextElement", 0) => {
                let value = self.element(&site.recv);
                self.loaded(value, site)
            }
            (
                "iterator" | "listIterator" | "stream" | "toArray" | "values" | "elements"
                | "toList" | "asList" | "parallelStream" | "collect" | "entries" | "copy",
                _,
            ) => site.recv.clone(),
            ("sort" | "reverse", _) => {
                self.state.change(id, Obj::collapse);
                site.recv.clone()
            }
            _ => return None,
        };
        Some(value)
    }

    fn list_remove(&mut self, id: ObjId, name: &str, site: &Site) -> Value {
        let at = match (name, site.args.first()) {
            (_, Some(arg)) => arg.value.konst.clone(),
            ("pop", None) if self.language == Language::Java => Konst::Int(-1),
            ("pop" | "removeLast" | "pollLast", None) => Konst::Int(-1),
            (_, None) => Konst::Int(0),
        };
        // `remove("x")` and `remove(x)` of Java and Python take out an element that equals.
        if matches!(at, Konst::Str(_)) || (name == "remove" && self.language == Language::Python) {
            self.state.change(id, |obj| {
                let found = obj
                    .items
                    .iter()
                    .position(|item| item.konst == at && at.is_known());
                match found {
                    Some(found) if obj.exact => {
                        obj.items.remove(found);
                    }
                    _ => obj.collapse(),
                }
            });
            return Value::default();
        }
        let value = self.element_at(&site.recv, &at);
        self.state.change(id, |obj| {
            let len = i64::try_from(obj.items.len()).unwrap_or(0);
            let position = match at {
                Konst::Int(at) if at < 0 => usize::try_from(at + len).ok(),
                Konst::Int(at) => usize::try_from(at).ok(),
                _ => None,
            };
            match position {
                Some(at) if obj.exact && at < obj.items.len() => {
                    obj.items.remove(at);
                }
                _ => obj.collapse(),
            }
        });
        self.loaded(value, site)
    }

    /// A property that a file of the same input defines, and this one does not set.
    fn configured(&self, site: &Site) -> Option<Value> {
        let key = site.args.first()?.value.konst.text()?;
        let set = self.names.get(key).is_some_and(|key| {
            site.recv.objs.iter().any(|id| {
                let obj = self.state.obj(*id);
                obj.is_some_and(|obj| obj.fields.contains_key(&key))
            })
        });
        let value = self.context.property(key).filter(|_| !set)?;
        Some(Value::text(value))
    }

    /// All constant keys before the value: `conf.set('section', 'key', v)` has two.
    fn key(&mut self, site: &Site, count: usize) -> Option<Name> {
        let mut key = String::new();
        for arg in site.args.get(..count)? {
            match &arg.value.konst {
                Konst::Str(text) => {
                    if !key.is_empty() {
                        key.push('\u{1f}');
                    }
                    key.push_str(text);
                }
                Konst::Int(number) => key.push_str(&number.to_string()),
                _ => return None,
            }
        }
        Some(self.names.intern(&key))
    }

    #[expect(clippy::too_many_lines, reason = "one arm per method: a table")]
    fn map_method(&mut self, id: ObjId, name: &str, site: &Site) -> Option<Value> {
        let count = site.args.len();
        let sections = self.names.text(site.recv.path).ends_with("ConfigParser");
        let value = match (name, count) {
            (
                "put" | "set" | "setProperty" | "putIfAbsent" | "setdefault" | "addAttribute"
                | "replace" | "add",
                2..,
            ) => {
                let key = self.key(site, count - 1);
                let value = self.stored(site, count - 1);
                self.state.change(id, |obj| match key {
                    Some(key) => {
                        obj.fields.insert(key, value);
                    }
                    None => obj.spill(&value),
                });
                Value::default()
            }
            ("get" | "getProperty" | "getOrDefault" | "pop" | "remove", 1..) => {
                let keys = if sections { count.min(2) } else { 1 };
                let default = (!sections)
                    .then(|| site.args.get(1))
                    .flatten()
                    .map(|arg| arg.value.clone());
                let key = self.key(site, keys);
                if name == "getProperty"
                    && let Some(value) = self.configured(site)
                {
                    return Some(value);
                }
                let obj = self.state.obj(id)?;
                let found = key.and_then(|key| obj.fields.get(&key).cloned());
                let mut value = match (found, key.is_some()) {
                    (Some(value), _) => value,
                    (None, true) => {
                        let mut value = obj.rest.clone();
                        if let Some(default) = default {
                            if value.same(&Value::default())
                                && obj.rest.same(&Value::default())
                                && obj.exact
                            {
                                value = default;
                                value.konst = Konst::Unknown;
                            } else {
                                value.join(&default);
                            }
                        }
                        value
                    }
                    (None, false) => obj.content(),
                };
                if matches!(name, "pop" | "remove")
                    && let Some(key) = key
                {
                    self.state.change(id, |obj| {
                        obj.fields.remove(&key);
                    });
                }
                value.add_taints(&site.recv.taint);
                self.loaded(value, site)
            }
            ("putAll" | "update" | "addAllAttributes", 1..) => {
                let from = site
                    .args
                    .first()
                    .map(|arg| arg.value.clone())
                    .unwrap_or_default();
                let obj = from
                    .objs
                    .first()
                    .and_then(|from| self.state.obj(*from))
                    .cloned();
                let own = from.derived();
                self.state.change(id, |into| {
                    if let Some(obj) = obj {
                        into.fields.extend(obj.fields);
                        into.spill(&obj.rest);
                    }
                    into.spill(&own);
                });
                Value::default()
            }
            ("values" | "elements" | "entrySet" | "items" | "entries" | "valueOf", _) => {
                let value = self.element(&site.recv);
                let list = self.alloc(Shape::List, site.sp);
                self.state.change(list, |obj| {
                    obj.exact = false;
                    obj.spill(&value);
                });
                Value::object(list)
            }
            ("clear", _) => {
                self.state.change(id, |obj| {
                    obj.fields.clear();
                    obj.rest = Value::default();
                });
                Value::default()
            }
            ("copy", 0) => site.recv.clone(),
            _ => return None,
        };
        Some(value)
    }

    fn buffer_method(&mut self, id: ObjId, name: &str, site: &Site) -> Option<Value> {
        match name {
            "append" | "write" | "insert" | "add" | "writelines" => {
                let which = usize::from(name == "insert" && site.args.len() > 1);
                let arg = site.args.get(which)?;
                let mut value = self.deep(&arg.value);
                self.note(&mut value, StepKind::Field, site.sp, Say::Stored(site.hint));
                let konst = arg.value.konst.clone();
                self.state.change(id, |obj| {
                    let text = if name == "append" || name == "write" {
                        fold::concat(&obj.rest.konst, &konst)
                    } else {
                        Konst::Unknown
                    };
                    obj.rest.konst = text;
                    obj.rest.add_taints(&value.taint);
                });
                Some(site.recv.clone())
            }
            "toString" | "getvalue" | "getValue" | "read" | "substring" | "toByteArray"
            | "getBuffer" | "readline" => {
                let mut value = self.state.obj(id)?.rest.clone();
                if name == "substring" {
                    value.konst = Konst::Unknown;
                }
                value.add_taints(&site.recv.taint);
                Some(self.loaded(value, site))
            }
            "setLength" | "truncate" => {
                self.state.change(id, |obj| obj.rest = Value::text(""));
                Some(Value::default())
            }
            "reverse" | "deleteCharAt" | "delete" | "replace" | "setCharAt" | "seek" => {
                let extra = site
                    .args
                    .get(2)
                    .map(|arg| self.deep(&arg.value))
                    .unwrap_or_default();
                self.state.change(id, |obj| {
                    obj.rest.konst = Konst::Unknown;
                    obj.rest.add_taints(&extra.taint);
                });
                Some(site.recv.clone())
            }
            _ => None,
        }
    }

    /// Getters and setters of objects whose class is not in the file.
    fn record_method(&mut self, id: ObjId, name: &str, site: &Site) -> Option<Value> {
        let obj = self.state.obj(id)?;
        // `pair.left()` of a record.
        if self.language == Language::Java
            && site.args.is_empty()
            && obj.class.is_some()
            && let Some(value) = obj.fields.get(&site.name).cloned()
        {
            return Some(self.loaded(value, site));
        }
        if self
            .state
            .obj(id)?
            .class
            .is_some_and(|class| self.method(class, site.name).is_some())
        {
            return None;
        }
        let (is_set, field) = match (name.strip_prefix("set"), name.strip_prefix("get")) {
            (Some(field), _) if site.args.len() == 1 => (true, field),
            (_, Some(field)) if site.args.is_empty() => (false, field),
            _ => return None,
        };
        let mut field: String = field.to_owned();
        if let Some(first) = field.get_mut(..1) {
            first.make_ascii_lowercase();
        }
        let field = self.names.intern(&field);
        if is_set {
            let value = site.args.first()?.value.clone();
            self.set_field(&Value::object(id), field, value, site.sp);
            return Some(site.recv.clone());
        }
        let value = self.state.obj(id)?.fields.get(&field).cloned()?;
        Some(self.loaded(value, site))
    }

    /// Methods of constant text that decide branches or choose algorithms.
    pub(super) fn text_method(&self, site: &Site) -> Option<Value> {
        let Konst::Str(text) = &site.recv.konst else {
            return None;
        };
        let name = self.names.text(site.name);
        let arg = |at: usize| site.args.get(at).map(|arg| arg.value.konst.clone());
        let konst = match (name, arg(0)) {
            ("charAt", Some(Konst::Int(at))) => {
                let at = usize::try_from(at).ok()?;
                Konst::Str(Rc::from(text.chars().nth(at)?.to_string()))
            }
            ("length" | "len", None) => Konst::Int(i64::try_from(text.chars().count()).ok()?),
            ("isEmpty", None) => Konst::Bool(text.is_empty()),
            ("equals", Some(Konst::Str(other))) => Konst::Bool(*text == other),
            ("equalsIgnoreCase", Some(Konst::Str(other))) => {
                Konst::Bool(text.eq_ignore_ascii_case(&other))
            }
            ("startsWith" | "startswith", Some(Konst::Str(other))) => {
                Konst::Bool(text.starts_with(&*other))
            }
            ("endsWith" | "endswith", Some(Konst::Str(other))) => {
                Konst::Bool(text.ends_with(&*other))
            }
            ("contains" | "includes", Some(Konst::Str(other))) => {
                Konst::Bool(text.contains(&*other))
            }
            ("toLowerCase" | "lower", None) => Konst::Str(Rc::from(text.to_lowercase())),
            ("toUpperCase" | "upper", None) => Konst::Str(Rc::from(text.to_uppercase())),
            ("trim" | "strip" | "toString" | "intern", None) => Konst::Str(Rc::from(text.trim())),
            ("concat", Some(other)) => fold::concat(&site.recv.konst, &other),
            ("replace", Some(Konst::Str(old))) => match arg(1) {
                Some(Konst::Str(new)) if !old.is_empty() => {
                    Konst::Str(Rc::from(text.replace(&*old, &new)))
                }
                _ => return None,
            },
            ("indexOf" | "find", Some(Konst::Str(other))) => Konst::Int(
                text.find(&*other)
                    .map_or(Some(-1), |at| i64::try_from(at).ok())?,
            ),
            _ => return None,
        };
        konst.is_known().then(|| Value::konst(konst))
    }
}

fn insert(obj: &mut Obj, at: &Konst, value: Value) {
    let at = match at {
        Konst::Int(at) => usize::try_from(*at).ok(),
        _ => None,
    };
    match at {
        Some(at) if obj.exact && at <= obj.items.len() => obj.items.insert(at, value),
        _ => {
            obj.collapse();
            obj.spill(&value);
        }
    }
}
