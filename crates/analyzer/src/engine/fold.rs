//! Arithmetic on constants: what decides branches.

use std::rc::Rc;

use crate::ir::Op;

use super::value::Konst;

/// Longer text is not kept as a constant.
const TEXT: usize = 1024;

pub(super) fn concat(a: &Konst, b: &Konst) -> Konst {
    match (a, b) {
        (Konst::Int(a), Konst::Int(b)) => a.checked_add(*b).map_or(Konst::Unknown, Konst::Int),
        (Konst::Str(a), b) => joined(a, b, false),
        (a, Konst::Str(b)) => joined(b, a, true),
        _ => Konst::Unknown,
    }
}

fn joined(text: &str, other: &Konst, before: bool) -> Konst {
    let other = match other {
        Konst::Str(other) => other.to_string(),
        Konst::Int(other) => other.to_string(),
        Konst::Bool(other) => other.to_string(),
        Konst::Null | Konst::Unknown => return Konst::Unknown,
    };
    if text.len() + other.len() > TEXT {
        return Konst::Unknown;
    }
    let all = if before {
        other + text
    } else {
        format!("{text}{other}")
    };
    Konst::Str(Rc::from(all))
}

pub(super) fn unary(op: Op, value: &Konst) -> Konst {
    match (op, value) {
        (Op::Not, value) => value
            .truth()
            .map_or(Konst::Unknown, |truth| Konst::Bool(!truth)),
        (Op::Neg, Konst::Int(value)) => value.checked_neg().map_or(Konst::Unknown, Konst::Int),
        (Op::Add, Konst::Int(value)) => Konst::Int(*value),
        _ => Konst::Unknown,
    }
}

pub(super) fn binary(op: Op, a: &Konst, b: &Konst) -> Konst {
    if !a.is_known() || !b.is_known() {
        return Konst::Unknown;
    }
    match (op, a, b) {
        (Op::Eq, a, b) => equal(a, b).map_or(Konst::Unknown, Konst::Bool),
        (Op::Ne, a, b) => equal(a, b).map_or(Konst::Unknown, |same| Konst::Bool(!same)),
        (Op::In, Konst::Str(a), Konst::Str(b)) => Konst::Bool(b.contains(&**a)),
        (Op::NotIn, Konst::Str(a), Konst::Str(b)) => Konst::Bool(!b.contains(&**a)),
        (Op::Add, a, b) => concat(a, b),
        (op, Konst::Int(a), Konst::Int(b)) => integers(op, *a, *b),
        (op, Konst::Str(a), Konst::Str(b)) => match op {
            Op::Lt => Konst::Bool(a < b),
            Op::Le => Konst::Bool(a <= b),
            Op::Gt => Konst::Bool(a > b),
            Op::Ge => Konst::Bool(a >= b),
            _ => Konst::Unknown,
        },
        _ => Konst::Unknown,
    }
}

fn equal(a: &Konst, b: &Konst) -> Option<bool> {
    match (a, b) {
        (Konst::Int(a), Konst::Bool(b)) | (Konst::Bool(b), Konst::Int(a)) => Some((*a != 0) == *b),
        // A constant that is no null is no null.
        (Konst::Null, other) | (other, Konst::Null) => Some(matches!(other, Konst::Null)),
        (Konst::Str(_), Konst::Int(_)) | (Konst::Int(_), Konst::Str(_)) => None,
        (a, b) => Some(a == b),
    }
}

fn integers(op: Op, a: i64, b: i64) -> Konst {
    let number = |value: Option<i64>| value.map_or(Konst::Unknown, Konst::Int);
    match op {
        Op::Sub => number(a.checked_sub(b)),
        Op::Mul => number(a.checked_mul(b)),
        Op::Div => number(a.checked_div(b)),
        Op::Rem => number(a.checked_rem(b)),
        Op::BitAnd => Konst::Int(a & b),
        Op::BitOr => Konst::Int(a | b),
        Op::BitXor => Konst::Int(a ^ b),
        Op::Lt => Konst::Bool(a < b),
        Op::Le => Konst::Bool(a <= b),
        Op::Gt => Konst::Bool(a > b),
        Op::Ge => Konst::Bool(a >= b),
        _ => Konst::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_fold() {
        let text = |text: &str| Konst::Str(Rc::from(text));
        for (op, a, b, expected) in [
            (Op::Mul, Konst::Int(7), Konst::Int(18), Konst::Int(126)),
            (Op::Gt, Konst::Int(232), Konst::Int(200), Konst::Bool(true)),
            (Op::Div, Konst::Int(500), Konst::Int(42), Konst::Int(11)),
            (Op::Div, Konst::Int(1), Konst::Int(0), Konst::Unknown),
            (Op::Mul, Konst::Int(i64::MAX), Konst::Int(2), Konst::Unknown),
            (Op::In, text("should"), text("it should"), Konst::Bool(true)),
            (Op::Eq, text("a"), Konst::Null, Konst::Bool(false)),
            (Op::Eq, Konst::Unknown, Konst::Null, Konst::Unknown),
            (Op::Add, text("n"), Konst::Int(1), text("n1")),
        ] {
            assert_eq!(binary(op, &a, &b), expected, "{op:?} {a:?} {b:?}");
        }
    }
}
