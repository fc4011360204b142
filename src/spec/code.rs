//! The codes of findings. They are stable: scripts and suppressions may name them.

macro_rules! codes {
    ($( $(#[doc = $doc:literal])+ $name:ident = $code:literal; )+) => {
        $( $(#[doc = $doc])+ pub const $name: &str = $code; )+

        /// Every code with its meaning, in order.
        pub const TABLE: &[(&str, &str)] = &[ $( ($code, concat!($($doc, "\n"),+)) ),+ ];
    };
}

codes! {
    /// A file or folder cannot be read, or holds no specification.
    UNREADABLE = "SP001";
    /// The file is larger than 1 MiB.
    TOO_LARGE = "SP002";
    /// The file is not UTF-8 text.
    ENCODING = "SP003";
    /// The text is not YAML.
    SYNTAX = "SP004";
    /// YAML is indented by spaces, never by tabs.
    TAB = "SP005";
    /// Nested deeper than 64 levels.
    TOO_DEEP = "SP006";
    /// Aliases would blow the file up; the usual form of an attack on YAML readers.
    TOO_MANY_ALIASES = "SP007";
    /// More than 100 documents in one file.
    TOO_MANY_DOCUMENTS = "SP008";
    /// A document, or a whole file, with nothing in it.
    EMPTY = "SP009";
    /// YAML tags such as `!!python/object` mean nothing here.
    TAG = "SP010";
    /// An alias whose anchor does not stand above it, or a merge key.
    ANCHOR = "SP011";
    /// The same field twice: readers of YAML disagree which one counts.
    DUPLICATE_KEY = "SP012";
    /// A field that this kind of document does not have.
    UNKNOWN_FIELD = "SP013";
    /// A field that must be there.
    MISSING_FIELD = "SP014";
    /// A text where a list belongs, a number where a text belongs, and so on.
    WRONG_TYPE = "SP015";
    /// A word that is none of the possible ones.
    UNKNOWN_VARIANT = "SP016";
    /// One key names the variant; there is none, or more than one.
    NOT_ONE_VARIANT = "SP017";
    /// A value of the right type that cannot be read: a duration, a share, a digest.
    BAD_VALUE = "SP018";
    /// `apiVersion` is not the one that this program reads.
    API_VERSION = "SP019";
    /// `kind` is none of the four.
    KIND = "SP020";
    /// A plain word that other readers of YAML take for true or false.
    AMBIGUOUS_WORD = "SP021";
    /// There are more errors in the file than are shown.
    MORE = "SP022";

    /// Two documents of one kind with one name.
    DUPLICATE_NAME = "LN001";
    /// A name, label or namespace that is not one.
    BAD_NAME = "LN002";
    /// A document is referred to that does not exist.
    DANGLING = "LN003";
    /// The namespace is not among `allowedNamespaces`.
    NAMESPACE = "LN004";
    /// A guard is weaker than a policy that applies to it.
    WEAKER = "LN005";
    /// Exactly one of some fields must be given.
    EXACTLY_ONE = "LN006";
    /// A number or a time that is out of its limits.
    LIMIT = "LN007";
    /// Weights of steps must rise.
    WEIGHTS = "LN008";
    /// A holdback that cannot serve as a baseline, or that the strategy does not have.
    HOLDBACK = "LN009";
    /// A deadline that ends a step before it can pass.
    DEADLINE = "LN010";
    /// The number of objectives: none, or too many for each to be judged well.
    OBJECTIVES = "LN011";
    /// `good` out of 50% to 99.999%.
    GOOD = "LN012";
    /// Not a vector selector over a counter.
    SELECTOR = "LN013";
    /// A selector that already names the label by which the arms are told apart.
    ARM_LABEL = "LN014";
    /// A selector of recorded or aggregated series.
    AGGREGATED = "LN015";
    /// A window that does not fit the scrape interval.
    WINDOW = "LN016";
    /// An alert matcher that is not one, or matches everything.
    MATCHER = "LN017";
    /// Too short to notice anything.
    TOO_SHORT = "LN018";
    /// A restart is the only lever.
    LEVERS = "LN019";
    /// The service under judgement is its own only witness.
    WITNESS = "LN020";
    /// Not an address, or not one that should be listened on.
    ADDRESS = "LN021";
    /// Not a URL, or not one that may be used.
    URL = "LN022";
    /// Credentials would be shown or sent in the clear.
    CREDENTIALS = "LN023";
    /// A key that cannot verify anything.
    KEY = "LN024";
    /// A requirement that can never be met, or none at all.
    REQUIREMENT = "LN025";
    /// A path that is not one.
    PATH = "LN026";
    /// Something that has no effect here.
    NO_EFFECT = "LN027";
    /// What was typed twice.
    TWICE = "LN028";
    /// A policy that matches no guard.
    UNUSED = "LN029";
    /// A strategy, a route, arms or a source that this kind of workload cannot have.
    UNFIT = "LN030";
    /// A selector that finds no series in the Prometheus that was asked.
    FINDS_NOTHING = "LN031";
    /// Series that lack the label by which the arms are told apart.
    NO_ARMS = "LN032";
    /// A line of a story that cannot be played.
    STORY = "ST001";
}

#[cfg(test)]
mod tests {
    use super::TABLE;

    #[test]
    fn codes_are_unique_and_sorted_within_their_family() {
        for family in ["SP", "LN"] {
            let codes: Vec<_> = TABLE.iter().map(|(code, _)| *code).filter(|code| code.starts_with(family)).collect();
            assert!(codes.windows(2).all(|pair| pair[0] < pair[1]), "{codes:?}");
        }
    }
}
