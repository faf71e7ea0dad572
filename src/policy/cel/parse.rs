//! Tokens → syntax tree: the grammar of Google's engine, with its bounds on nesting.

use super::ast::{BinaryOp, Expr, ExprKind, MAX_HEIGHT, Span};
use super::calls::{call, protobuf_message, protobuf_type};
use super::lex::{Kind, Token, lex};
use super::value::Value;
use super::{Problem, Rejected, literal};

/// The engine's bound on expressions inside of expressions: parentheses, arguments, elements.
const MAX_NESTING: usize = 33;

/// Words that cannot be names on their own; after a dot they can.
const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "namespace",
    "package",
    "return",
    "var",
    "void",
    "while",
];

/// Parses a whole text.
pub(in crate::policy) fn parse(text: &str) -> Result<Expr, Rejected> {
    let mut parser = Parser { text, tokens: lex(text)?, next: 0, nesting: 0 };
    let expr = parser.expression()?;
    match parser.peek().kind {
        Kind::End => Ok(expr),
        _ => Err(parser.unexpected("the end of the expression or an operator").into()),
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    next: usize,
    nesting: usize,
}

type Parsed = Result<Expr, Rejected>;

impl<'a> Parser<'a> {
    fn peek(&self) -> Token {
        self.ahead(0)
    }

    fn ahead(&self, distance: usize) -> Token {
        let end = Token { kind: Kind::End, span: Span { start: self.text.len(), end: self.text.len() } };
        self.tokens.get(self.next + distance).copied().unwrap_or(end)
    }

    fn slice(&self, span: Span) -> &'a str {
        self.text.get(span.start..span.end).unwrap_or_default()
    }

    fn advance(&mut self) -> Token {
        let token = self.peek();
        self.next += 1;
        token
    }

    fn at_sign(&self, sign: &str) -> bool {
        matches!(self.peek().kind, Kind::Sign(found) if found == sign)
    }

    fn take(&mut self, sign: &str) -> Option<Token> {
        self.at_sign(sign).then(|| self.advance())
    }

    fn expect(&mut self, sign: &'static str) -> Result<Token, Problem> {
        self.take(sign).ok_or_else(|| self.unexpected(&format!("`{sign}`")))
    }

    fn end(&self) -> usize {
        self.next.checked_sub(1).and_then(|last| self.tokens.get(last)).map_or(0, |token| token.span.end)
    }

    fn is_word(&self, word: &str) -> bool {
        let token = self.peek();
        token.kind == Kind::Name && self.slice(token.span) == word
    }

    fn unexpected(&self, wanted: &str) -> Problem {
        let token = self.peek();
        let found = match token.kind {
            Kind::End => "the expression ends".to_owned(),
            _ => format!("`{}` stands", self.slice(token.span).escape_debug()),
        };
        let hint = match self.slice(token.span) {
            "and" | "AND" => Some("`&&` means and".to_owned()),
            "or" | "OR" => Some("`||` means or".to_owned()),
            _ => None,
        };
        Problem::new(token.span.start, format!("{found} where {wanted} is expected")).hint(hint)
    }

    fn node(&self, kind: ExprKind, span: Span, at: usize) -> Parsed {
        let mut expr = Expr { kind, span, at, height: 0 };
        let children = expr.children().iter().map(|child| child.height).max().unwrap_or(0);
        // has() and the member in it count one each.
        expr.height = children + if matches!(expr.kind, ExprKind::Has { .. }) { 2 } else { 1 };
        if expr.height > MAX_HEIGHT {
            return Err(too_deep(at).into());
        }
        Ok(expr)
    }

    fn expression(&mut self) -> Parsed {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return Err(too_deep(self.peek().span.start).into());
        }
        let condition = self.chain("||")?;
        let expr = match self.take("?") {
            None => condition,
            Some(sign) => {
                let then = self.chain("||")?;
                self.expect(":")?;
                let otherwise = self.expression()?;
                let span = Span { start: condition.span.start, end: otherwise.span.end };
                let kind = ExprKind::Conditional {
                    condition: Box::new(condition),
                    then: Box::new(then),
                    otherwise: Box::new(otherwise),
                };
                self.node(kind, span, sign.span.start)?
            }
        };
        self.nesting -= 1;
        Ok(expr)
    }

    /// Operands of `||`, which are chains of `&&`, whose operands are comparisons.
    fn chain(&mut self, sign: &'static str) -> Parsed {
        let operand = |parser: &mut Self| if sign == "||" { parser.chain("&&") } else { parser.binary(3) };
        let first = operand(self)?;
        if !self.at_sign(sign) {
            return Ok(first);
        }
        let (start, at) = (first.span.start, self.peek().span.start);
        let mut operands = vec![first];
        while self.take(sign).is_some() {
            operands.push(operand(self)?);
        }
        let span = Span { start, end: operands.last().map_or(start, |last| last.span.end) };
        self.node(if sign == "||" { ExprKind::Or(operands) } else { ExprKind::And(operands) }, span, at)
    }

    fn operator(&self) -> Option<BinaryOp> {
        Some(match self.peek().kind {
            Kind::Sign("==") => BinaryOp::Equal,
            Kind::Sign("!=") => BinaryOp::NotEqual,
            Kind::Sign("<") => BinaryOp::Less,
            Kind::Sign("<=") => BinaryOp::LessEqual,
            Kind::Sign(">") => BinaryOp::Greater,
            Kind::Sign(">=") => BinaryOp::GreaterEqual,
            Kind::Sign("+") => BinaryOp::Add,
            Kind::Sign("-") => BinaryOp::Subtract,
            Kind::Sign("*") => BinaryOp::Multiply,
            Kind::Sign("/") => BinaryOp::Divide,
            Kind::Sign("%") => BinaryOp::Modulo,
            Kind::Name if self.is_word("in") => BinaryOp::In,
            _ => return None,
        })
    }

    /// Binary operators of at least `strength`; all of them group to the left.
    fn binary(&mut self, strength: u8) -> Parsed {
        let mut left = self.unary()?;
        while let Some(op) = self.operator().filter(|op| op.strength() >= strength) {
            let sign = self.advance();
            let right = self.binary(op.strength() + 1)?;
            let span = Span { start: left.span.start, end: right.span.end };
            let kind = ExprKind::Binary { op, left: Box::new(left), right: Box::new(right) };
            left = self.node(kind, span, sign.span.start)?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Parsed {
        let first = self.peek();
        let Kind::Sign(sign @ ("!" | "-")) = first.kind else { return self.member() };
        if sign == "-" && matches!(self.ahead(1).kind, Kind::Int | Kind::Double) {
            return self.member();
        }
        let mut count = 0usize;
        // `!!a` is `a`, and so on: the engine drops pairs.
        while self.take(sign).is_some() {
            count += 1;
        }
        let mut operand = self.member()?;
        operand.span.start = first.span.start;
        if count.is_multiple_of(2) {
            return Ok(operand);
        }
        let span = operand.span;
        let operand = Box::new(operand);
        self.node(
            if sign == "!" { ExprKind::Not(operand) } else { ExprKind::Negate(operand) },
            span,
            first.span.start,
        )
    }

    fn member(&mut self) -> Parsed {
        let mut expr = self.primary()?;
        let start = expr.span.start;
        loop {
            if let Some(dot) = self.take(".") {
                expr = self.after_dot(expr, start, dot)?;
            } else if let Some(bracket) = self.take("[") {
                self.no_optional(bracket)?;
                let index = self.expression()?;
                self.expect("]")?;
                let kind = ExprKind::Index { operand: Box::new(expr), index: Box::new(index) };
                expr = self.node(kind, Span { start, end: self.end() }, bracket.span.start)?;
            } else if self.at_sign("{") {
                return Err(self.message(&expr));
            } else {
                return Ok(expr);
            }
        }
    }

    fn no_optional(&self, before: Token) -> Result<(), Problem> {
        if self.at_sign("?") {
            return Err(Problem::new(
                before.span.start,
                "optional values (`?`) are not part of attribute conditions",
            ));
        }
        Ok(())
    }

    fn after_dot(&mut self, operand: Expr, start: usize, dot: Token) -> Parsed {
        self.no_optional(dot)?;
        let token = self.peek();
        let name = self.slice(token.span);
        if token.kind == Kind::QuotedName {
            self.advance();
            let field = name.trim_matches('`').to_owned();
            return self.node(
                ExprKind::Select { operand: Box::new(operand), field },
                Span { start, end: self.end() },
                dot.span.start,
            );
        }
        if token.kind != Kind::Name || is_keyword(name) {
            let hint = is_keyword(name).then(|| format!("write .`{name}` for a claim of this name"));
            return Err(self.unexpected("the name of a member").hint(hint).into());
        }
        self.advance();
        if let Some(open) = self.take("(") {
            let arguments = self.arguments(")")?;
            let kind = call(name, Some(operand), arguments, open.span.start)?;
            return self.node(kind, Span { start, end: self.end() }, open.span.start);
        }
        let span = Span { start, end: self.end() };
        if let Some(protobuf) = protobuf_type(&operand, name) {
            return match protobuf {
                Some(known) => self.node(ExprKind::Literal(Value::Type(known)), span, start),
                None => Err(protobuf_message(start)),
            };
        }
        self.node(
            ExprKind::Select { operand: Box::new(operand), field: name.to_owned() },
            span,
            dot.span.start,
        )
    }

    /// `Name{…}` makes a message.
    fn message(&self, expr: &Expr) -> Rejected {
        let name = self.slice(expr.span);
        if name.starts_with("google.protobuf.")
            || name.starts_with("google.type.")
            || name.starts_with("google.rpc.")
        {
            return protobuf_message(expr.span.start);
        }
        self.unexpected("an operator").into()
    }

    /// What is between brackets; `close` is taken.
    fn arguments(&mut self, close: &'static str) -> Result<Vec<Expr>, Rejected> {
        let mut arguments = Vec::new();
        if self.take(close).is_some() {
            return Ok(arguments);
        }
        loop {
            arguments.push(self.expression()?);
            if self.take(close).is_some() {
                return Ok(arguments);
            }
            if self.take(",").is_none() {
                return Err(self.unexpected(&format!("`,` or `{close}`")).into());
            }
        }
    }

    fn primary(&mut self) -> Parsed {
        let token = self.peek();
        let start = token.span.start;
        match token.kind {
            Kind::Sign("(") => {
                self.advance();
                let mut expr = self.expression()?;
                self.expect(")")?;
                expr.span = Span { start, end: self.end() };
                Ok(expr)
            }
            Kind::Sign("[") => self.list(),
            Kind::Sign("{") => self.map(),
            Kind::Sign("-") | Kind::Int | Kind::Uint | Kind::Double | Kind::Text | Kind::Bytes => {
                self.literal()
            }
            Kind::Sign(".") => {
                self.advance();
                self.name(start, true)
            }
            Kind::Name => self.name(start, false),
            _ => Err(self.unexpected("a value").into()),
        }
    }

    fn literal(&mut self) -> Parsed {
        let start = self.peek().span.start;
        let negative = self.take("-").is_some();
        let token = self.advance();
        let text = self.slice(token.span);
        let value = match token.kind {
            Kind::Int => literal::int(text, negative, start)?,
            Kind::Double => literal::double(text, negative, start)?,
            Kind::Uint => literal::uint(text, start)?,
            _ => literal::text(text, start)?,
        };
        self.node(ExprKind::Literal(value), Span { start, end: token.span.end }, start)
    }

    fn name(&mut self, start: usize, absolute: bool) -> Parsed {
        let token = self.peek();
        let name = self.slice(token.span);
        if token.kind != Kind::Name || name == "in" || (absolute && is_keyword(name)) {
            return Err(self.unexpected("a value").into());
        }
        self.advance();
        let span = Span { start, end: token.span.end };
        let known = match name {
            "true" => Some(Value::Bool(true)),
            "false" => Some(Value::Bool(false)),
            "null" => Some(Value::Null),
            _ => None,
        };
        if let Some(value) = known {
            return self.node(ExprKind::Literal(value), span, start);
        }
        if RESERVED.contains(&name) {
            return Err(Problem::new(token.span.start, format!("`{name}` is a reserved word")).into());
        }
        if let Some(open) = self.take("(") {
            let arguments = self.arguments(")")?;
            let kind = call(name, None, arguments, open.span.start)?;
            return self.node(kind, Span { start, end: self.end() }, open.span.start);
        }
        self.node(ExprKind::Ident { name: name.to_owned(), absolute }, span, token.span.start)
    }

    fn list(&mut self) -> Parsed {
        let open = self.advance();
        let mut items = Vec::new();
        if self.take(",").is_none() {
            while !self.at_sign("]") {
                self.no_optional(open)?;
                items.push(self.expression()?);
                if self.take(",").is_none() {
                    break;
                }
            }
        }
        if self.take("]").is_none() {
            return Err(self.unexpected("`,` or `]`").into());
        }
        self.node(ExprKind::List(items), Span { start: open.span.start, end: self.end() }, open.span.start)
    }

    fn map(&mut self) -> Parsed {
        let open = self.advance();
        let mut entries = Vec::new();
        if self.take(",").is_none() {
            while !self.at_sign("}") {
                self.no_optional(open)?;
                let key = self.expression()?;
                self.expect(":")?;
                entries.push((key, self.expression()?));
                if self.take(",").is_none() {
                    break;
                }
            }
        }
        if self.take("}").is_none() {
            return Err(self.unexpected("`,` or `}`").into());
        }
        self.node(ExprKind::Map(entries), Span { start: open.span.start, end: self.end() }, open.span.start)
    }
}

fn too_deep(at: usize) -> Problem {
    Problem::new(at, format!("the expression is nested more than {MAX_HEIGHT} deep")).hint(Some(
        "long chains of `&&`, `||` and lists are fine; chains of other operators count each".to_owned(),
    ))
}

fn is_keyword(name: &str) -> bool {
    matches!(name, "in" | "true" | "false" | "null")
}
