//! Who ended a tunnel, and how.

use super::Side;

/// Who may end a tunnel: all that [`End::by`] says.
pub(crate) const ENDERS: [&str; 3] = ["client", "backend", "gate"];

macro_rules! ends {
    ($($(#[$about:meta])* $name:ident = $by:literal, $how:literal;)*) => {
        /// Who ended a tunnel, and how.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum End {
            $($(#[$about])* $name,)*
        }

        impl End {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// `client`, `backend` or `gate`.
            pub(crate) const fn by(self) -> &'static str {
                match self { $(Self::$name => $by,)* }
            }

            pub(crate) const fn how(self) -> &'static str {
                match self { $(Self::$name => $how,)* }
            }
        }
    };
}

ends! {
    /// The client sent a close frame.
    ClientClosed = "client", "close_frame";
    /// The client's connection ended without one.
    ClientEnded = "client", "end";
    /// The client's connection broke.
    ClientBroke = "client", "reset";
    /// The client answers TCP no more.
    ClientVanished = "client", "vanished";
    /// The backend sent a close frame.
    BackendClosed = "backend", "close_frame";
    /// The backend's connection ended without one.
    BackendEnded = "backend", "end";
    /// The backend's connection broke.
    BackendBroke = "backend", "reset";
    /// The backend answers TCP no more.
    BackendVanished = "backend", "vanished";
    /// It was silent, or one side took nothing, for `idle`.
    Idle = "gate", "idle";
    /// The gate goes away.
    Drained = "gate", "drain";
}

impl End {
    /// Its place in [`End::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    /// Who ended it: its place in [`ENDERS`].
    pub(crate) fn ender(self) -> usize {
        let place = ENDERS.iter().position(|by| *by == self.by());
        place.unwrap_or(ENDERS.len())
    }

    pub(crate) fn closed(side: Side) -> Self {
        match side {
            Side::Client => Self::ClientClosed,
            Side::Backend => Self::BackendClosed,
        }
    }

    pub(crate) fn ended(side: Side) -> Self {
        match side {
            Side::Client => Self::ClientEnded,
            Side::Backend => Self::BackendEnded,
        }
    }

    pub(crate) fn broke(side: Side) -> Self {
        match side {
            Side::Client => Self::ClientBroke,
            Side::Backend => Self::BackendBroke,
        }
    }

    pub(crate) fn vanished(side: Side) -> Self {
        match side {
            Side::Client => Self::ClientVanished,
            Side::Backend => Self::BackendVanished,
        }
    }

    /// The side that cut it: that ended it without a close frame. Who vanished did so at another time than that at
    /// which our keep-alive found it, which is no timer of anyone else.
    pub(super) fn cut_by(self) -> Option<Side> {
        match self {
            Self::ClientEnded | Self::ClientBroke => Some(Side::Client),
            Self::BackendEnded | Self::BackendBroke => Some(Side::Backend),
            Self::ClientClosed | Self::BackendClosed | Self::Idle | Self::Drained => None,
            Self::ClientVanished | Self::BackendVanished => None,
        }
    }
}
