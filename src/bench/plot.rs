//! Plots as SVG: distributions, bars and lines, for a page in light and dark and for a paper.
//!
//! A plot is drawn once, in stand-in colours that nothing else uses. For a page they become CSS variables, so that the reader's
//! theme decides; for a file of its own they become colours that print well.

use std::ops::Range;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use thiserror::Error;

/// Width of a plot in units of its own; a page scales it.
const WIDTH: u32 = 640;
/// Height of a distribution or line plot.
const HEIGHT: u32 = 420;
/// Height of a bar with the room around it.
const BAR: u32 = 46;
/// Where a legend and bars begin.
const LEFT: i32 = 8;
const FONT: &str = "sans-serif";
const FONT_SIZE: u32 = 15;
/// A logarithmic scale whose end is so many times its start has no room for every label.
const WIDE: f64 = 5.0;
/// Points of a curve, at most: finer than a screen shows.
const POINTS: usize = 400;

/// Stand-ins for the text's colour, the grid's, the background's, and the series'.
const INK: RGBColor = RGBColor(0xa0, 0, 0xf0);
const GRID: RGBColor = RGBColor(0xa0, 0, 0xf1);
const GROUND: RGBColor = RGBColor(0xa0, 0, 0xf2);

/// Colours that are told apart by people who see few colours (Okabe and Ito, "Color Universal Design", 2008), on white; some
/// darkened, to be seen as lines.
const PRINT: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#a8508a", "#333333", "#3a9bd0", "#b07800", "#7a6a00"];
/// The same on a dark ground.
const DARK: [&str; 8] = ["#5db4ea", "#ff9447", "#3fd1a5", "#e9a3cd", "#f2f2f2", "#9ad7f7", "#f0be4a", "#e6d95a"];

/// Why there is no plot.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("cannot draw the plot \"{name}\": {reason}")]
pub struct PlotError {
    name: String,
    reason: String,
}

/// A plot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Svg {
    stand_in: String,
}

/// A curve's name and its values. One without any is not shown, and keeps its colour for other plots.
#[derive(Clone, Copy, Debug)]
pub struct Series<'a> {
    /// Shown in the legend.
    pub name: &'a str,
    /// For a distribution, measurements in any order.
    pub values: &'a [f64],
}

/// A bar of one or more parts, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// Above the bar.
    pub name: String,
    /// After the bar.
    pub label: String,
    /// Each a series' index (its colour) and a length.
    pub parts: Vec<(usize, f64)>,
}

impl Svg {
    /// For a page that defines the variables of [`style`].
    pub fn for_page(&self) -> String {
        let series = |i: usize| format!("var(--series-{i})");
        let text = self.coloured("var(--ink)", "var(--grid)", "var(--ground)", series);
        // Scaled by the page, which the fixed size would keep it from.
        text.replacen(&format!("<svg width=\"{WIDTH}\""), "<svg role=\"img\" width=\"100%\"", 1).replacen(
            " height=\"",
            " data-height=\"",
            1,
        )
    }

    /// For a file of its own.
    pub fn for_file(&self) -> String {
        self.coloured("#222222", "#dddddd", "#ffffff", |i| PRINT[i].to_owned())
    }

    fn coloured(&self, ink: &str, grid: &str, ground: &str, series: impl Fn(usize) -> String) -> String {
        let mut text = self.stand_in.replace(&hex(INK), ink).replace(&hex(GRID), grid).replace(&hex(GROUND), ground);
        for i in 0..PRINT.len() {
            text = text.replace(&hex(colour(i)), &series(i));
        }
        text
    }

    fn draw(
        name: &str,
        height: u32,
        draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Result<(), String>,
    ) -> Result<Self, PlotError> {
        let mut stand_in = String::new();
        let drawn = {
            let area = SVGBackend::with_string(&mut stand_in, (WIDTH, height)).into_drawing_area();
            draw(&area).and_then(|()| area.present().map_err(|e| e.to_string()))
        };
        drawn.map_err(|reason| PlotError { name: name.to_owned(), reason })?;
        Ok(Self { stand_in })
    }
}

/// The variables of a page's style, for light and for dark.
pub fn style() -> String {
    let variables = |colours: [&str; 8]| {
        let each = colours.iter().enumerate().map(|(i, colour)| format!("--series-{i}:{colour};"));
        each.collect::<String>()
    };
    format!(":root{{{}}}\n@media (prefers-color-scheme:dark){{:root{{{}}}}}\n", variables(PRINT), variables(DARK))
}

/// A series' stand-in colour.
const fn colour(index: usize) -> RGBColor {
    RGBColor(0xa0, 1, (index % PRINT.len()) as u8)
}

fn hex(RGBColor(r, g, b): RGBColor) -> String {
    format!("#{r:02X}{g:02X}{b:02X}")
}

fn font(colour: RGBColor) -> TextStyle<'static> {
    (FONT, FONT_SIZE).into_font().color(&colour)
}

/// Cumulative distributions over a logarithmic scale of time; the share of runs on a scale stretched towards all of them, so
/// that 90, 99, 99.9 and 99.99 % are equally far apart and the tail shows.
///
/// `range` fixes the ends of the time scale, so that several plots can be compared.
///
/// # Errors
/// [`PlotError`] when there is nothing to draw.
pub fn distributions(
    name: &str,
    unit: &str,
    series: &[Series<'_>],
    range: Option<Range<f64>>,
) -> Result<Svg, PlotError> {
    let curves: Vec<Vec<(f64, f64)>> = series.iter().map(|s| curve(s.values)).collect();
    let top = curves.iter().flatten().map(|p| p.1).fold(1.0, f64::max);
    let heights = Heights { top, labels: top.ceil() as usize + 1, label: share };
    over_times(name, unit, series, &curves, range, &heights)
}

/// Cumulative distributions over a logarithmic scale, the share of values on an even scale: for few values, of which the middle
/// matters.
///
/// # Errors
/// [`PlotError`] when there is nothing to draw.
pub fn even_distributions(name: &str, unit: &str, series: &[Series<'_>]) -> Result<Svg, PlotError> {
    let curves: Vec<Vec<(f64, f64)>> = series.iter().map(|s| even_curve(s.values)).collect();
    let heights = Heights { top: 1.0, labels: 5, label: |height| format!("{:.0} %", 100.0 * height) };
    over_times(name, unit, series, &curves, None, &heights)
}

/// The scale of shares.
struct Heights {
    top: f64,
    labels: usize,
    label: fn(f64) -> String,
}

fn over_times(
    name: &str,
    unit: &str,
    series: &[Series<'_>],
    curves: &[Vec<(f64, f64)>],
    range: Option<Range<f64>>,
    heights: &Heights,
) -> Result<Svg, PlotError> {
    let range = range.unwrap_or_else(|| span(curves.iter().flatten().map(|p| p.0)));
    if range.start <= 0.0 || range.start.is_nan() || range.end <= range.start {
        return Err(PlotError { name: name.to_owned(), reason: "there are no positive measurements".to_owned() });
    }
    let named: Vec<_> = (0..).zip(series).filter(|(_, s)| !s.values.is_empty()).map(|(i, s)| (i, s.name)).collect();
    let above = legend_height(named.len());
    let wide = range.end > WIDE * range.start;
    Svg::draw(name, HEIGHT + above, |area| {
        draw_legend(area, &named)?;
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .margin_top(12 + above)
            .margin_right(24)
            .x_label_area_size(46)
            .y_label_area_size(64)
            .build_cartesian_2d((range.start..range.end).log_scale(), 0.0..heights.top)
            .map_err(|e| e.to_string())?;
        chart
            .configure_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(GRID)
            .label_style(font(INK))
            .x_desc(unit)
            .x_label_formatter(&|x| if wide { sparse(*x) } else { short(*x) })
            .y_labels(heights.labels)
            .y_label_formatter(&|y| (heights.label)(*y))
            .draw()
            .map_err(|e| e.to_string())?;
        for (i, points) in curves.iter().enumerate() {
            let line = LineSeries::new(points.iter().copied(), colour(i).stroke_width(2));
            chart.draw_series(line).map_err(|e| e.to_string())?;
        }
        Ok(())
    })
}

/// Lines through points, over linear scales from zero. One without any is not shown, and keeps its colour for other plots.
///
/// # Errors
/// [`PlotError`] when there is nothing to draw.
pub fn lines(name: &str, x: &str, y: &str, series: &[(&str, Vec<(f64, f64)>)]) -> Result<Svg, PlotError> {
    let most = |of: fn(&(f64, f64)) -> f64| series.iter().flat_map(|s| &s.1).map(of).fold(0.0, f64::max) * 1.05;
    let (right, top) = (most(|p| p.0), most(|p| p.1));
    if !(right > 0.0 && top > 0.0) {
        return Err(PlotError { name: name.to_owned(), reason: "there are no positive points".to_owned() });
    }
    let named: Vec<_> = (0..).zip(series).filter(|(_, s)| !s.1.is_empty()).map(|(i, s)| (i, s.0)).collect();
    let above = legend_height(named.len());
    Svg::draw(name, HEIGHT + above, |area| {
        draw_legend(area, &named)?;
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .margin_top(12 + above)
            .margin_right(24)
            .x_label_area_size(46)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..right, 0.0..top)
            .map_err(|e| e.to_string())?;
        chart
            .configure_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(GRID)
            .label_style(font(INK))
            .x_desc(x)
            .y_desc(y)
            .x_label_formatter(&|x| short(*x))
            .y_label_formatter(&|y| short(*y))
            .draw()
            .map_err(|e| e.to_string())?;
        for (i, (_, points)) in series.iter().enumerate() {
            let line = LineSeries::new(points.iter().copied(), colour(i).stroke_width(2)).point_size(3);
            chart.draw_series(line).map_err(|e| e.to_string())?;
        }
        Ok(())
    })
}

/// Horizontal bars from zero, the longest as wide as the plot; `legend` names the colours of their parts.
///
/// # Errors
/// [`PlotError`] when there is nothing to draw.
pub fn bars(name: &str, legend: &[&str], bars: &[Bar]) -> Result<Svg, PlotError> {
    let length = |bar: &Bar| bar.parts.iter().map(|part| part.1).filter(|l| l.is_finite()).sum::<f64>();
    let longest = bars.iter().map(length).fold(0.0, f64::max);
    if longest <= 0.0 {
        return Err(PlotError { name: name.to_owned(), reason: "there is no bar with a length".to_owned() });
    }
    const LABEL: i32 = 120;
    let legend_height = legend_height(legend.len());
    let height = bars.len() as u32 * BAR + legend_height + 12;
    let scale = f64::from(WIDTH as i32 - LEFT - LABEL) / longest;
    Svg::draw(name, height, |area| {
        let text = |text: &str, at: (i32, i32)| {
            let style = font(INK).pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(text.to_owned(), at, style)).map_err(|e| e.to_string())
        };
        let block = |index: usize, from: (i32, i32), to: (i32, i32)| {
            area.draw(&Rectangle::new([from, to], colour(index).filled())).map_err(|e| e.to_string())
        };
        draw_legend(area, &legend.iter().copied().enumerate().collect::<Vec<_>>())?;
        for (i, bar) in bars.iter().enumerate() {
            let y = legend_height as i32 + i as i32 * BAR as i32;
            text(&bar.name, (LEFT, y + 12))?;
            let mut from = f64::from(LEFT);
            for &(index, length) in bar.parts.iter().filter(|part| part.1 > 0.0) {
                // Even a part too short to see gets a line of its own.
                let to = (from + length * scale).max(from + 1.0);
                block(index, (from as i32, y + 22), (to as i32, y + 38))?;
                from = to;
            }
            text(&bar.label, (from as i32 + 6, y + 31))?;
        }
        Ok(())
    })
}

/// Height of a legend of so many names, three to a line.
fn legend_height(names: usize) -> u32 {
    names.div_ceil(3) as u32 * 24 + if names == 0 { 0 } else { 8 }
}

/// Draws names with their colours at the top, where no curve is.
fn draw_legend(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    names: &[(usize, &str)],
) -> Result<(), String> {
    for (i, &(index, name)) in names.iter().enumerate() {
        let (x, y) = (LEFT + (i % 3) as i32 * 208, 14 + (i / 3) as i32 * 24);
        let block = Rectangle::new([(x, y - 6), (x + 12, y + 6)], colour(index).filled());
        area.draw(&block).map_err(|e| e.to_string())?;
        let style = font(INK).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(name.to_owned(), (x + 18, y), style)).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// A distribution's curve: time, and how far up the stretched scale the share of runs at or below it is.
fn curve(values: &[f64]) -> Vec<(f64, f64)> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len() as f64;
    // Half a run short of all, so that the longest is at a height that its sample's size sets.
    let height = |i: usize| -(1.0 - (i as f64 + 0.5) / count).log10();
    let mut points: Vec<(f64, f64)> = Vec::new();
    let step = height(sorted.len().saturating_sub(1)) / POINTS as f64;
    for (i, value) in sorted.iter().enumerate() {
        let y = height(i);
        if points.last().is_none_or(|last| y - last.1 >= step) || i + 1 == sorted.len() {
            points.push((*value, y));
        }
    }
    points
}

/// A distribution's curve with even heights: a value, and the share of values at or below it, half of itself not counted.
fn even_curve(values: &[f64]) -> Vec<(f64, f64)> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len() as f64;
    sorted.into_iter().enumerate().map(|(i, value)| (value, (i as f64 + 0.5) / count)).collect()
}

/// The ends of a logarithmic scale that holds all values: powers of ten, or one, two and five times them.
pub fn span(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (mut low, mut high) = (f64::INFINITY, 0.0f64);
    for value in values.filter(|v| v.is_finite() && *v > 0.0) {
        (low, high) = (low.min(value), high.max(value));
    }
    let floor = |value: f64| {
        let decade = 10f64.powf(value.log10().floor());
        [5.0, 2.0, 1.0].iter().map(|m| m * decade).find(|end| *end <= value).unwrap_or(decade)
    };
    let ceil = |value: f64| {
        let decade = 10f64.powf(value.log10().floor());
        [1.0, 2.0, 5.0, 10.0].iter().map(|m| m * decade).find(|end| *end >= value).unwrap_or(10.0 * decade)
    };
    let (low, high) = (floor(low), ceil(high));
    low..if high > low { high } else { 2.0 * low }
}

/// A height of the stretched scale as a share: 0 %, 90 %, 99 %.
fn share(height: f64) -> String {
    let digits = (height.round() as usize).saturating_sub(2);
    format!("{:.digits$} %", 100.0 * (1.0 - 10f64.powf(-height)))
}

/// A number on an axis, short.
fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{} M", trim(v / 1e6)),
        v if v >= 1e4 => format!("{} k", trim(v / 1e3)),
        v => trim(v),
    }
}

/// The same on a logarithmic scale, of ones, twos and fives only: others come too close to each other.
fn sparse(value: f64) -> String {
    let digit = value / 10f64.powf((value.log10() + 1e-9).floor());
    if [1.0, 2.0, 5.0].iter().any(|shown| (digit - shown).abs() < 1e-6) { short(value) } else { String::new() }
}

fn trim(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Svg {
        let values: Vec<f64> = (1..=1000).map(|i| 100.0 + f64::from(i * i) / 1000.0).collect();
        let series = [Series { name: "a <guest>", values: &values }, Series { name: "b", values: &[120.0; 50] }];
        distributions("test", "time, us", &series, None).unwrap()
    }

    /// Proves that a page's plot has no colour of its own, and a file's no variable.
    #[test]
    fn colours_are_the_pages_or_the_papers() {
        let svg = example();
        let (page, file) = (svg.for_page(), svg.for_file());
        assert!(page.contains("var(--ink)") && page.contains("var(--series-1)") && !page.contains("#A0"), "{page}");
        assert!(file.contains(PRINT[0]) && !file.contains("var(") && !file.contains("#A0"));
        assert!(page.contains("viewBox") && page.contains("width=\"100%\"") && file.contains("width=\"640\""));
        assert!(file.contains("a &lt;guest&gt;"), "names are text, not markup");
        for (i, dark) in DARK.iter().enumerate() {
            assert!(style().contains(&format!("--series-{i}:{dark};")));
        }
    }

    /// Proves that a curve keeps its ends and stays small, and that its heights are shares.
    #[test]
    fn curves_keep_their_ends() {
        let values: Vec<f64> = (0..10_000).map(f64::from).collect();
        let points = curve(&values);
        assert!(points.len() <= POINTS + 2, "{}", points.len());
        assert_eq!((points[0].0, points[points.len() - 1].0), (0.0, 9999.0));
        assert!((points[points.len() - 1].1 - 4.3).abs() < 0.01);
        assert_eq!([share(0.0), share(1.0), share(2.0), share(3.0)], ["0 %", "90 %", "99 %", "99.9 %"]);
    }

    /// Proves that on an even scale the middle of the values is at its middle.
    #[test]
    fn even_curves_have_their_median_in_the_middle() {
        assert_eq!(even_curve(&[3.0, 1.0, f64::NAN, 2.0]), [(1.0, 1.0 / 6.0), (2.0, 0.5), (3.0, 5.0 / 6.0)]);
        let svg = even_distributions("pairs", "ratio", &[Series { name: "a", values: &[0.9, 1.0, 2.0] }]).unwrap();
        assert!(svg.for_file().contains("50 %") && svg.for_file().contains("polyline"));
    }

    /// Proves that scales have round ends, also for a single value.
    #[test]
    fn scales_have_round_ends() {
        assert_eq!(span([120.0, 900.0].into_iter()), 100.0..1000.0);
        assert_eq!(span([3.0].into_iter()), 2.0..5.0);
        let (one, empty) = (span([1.0].into_iter()), span(std::iter::empty()));
        assert!(one.start < one.end && !(empty.start < empty.end && empty.start.is_finite()));
    }

    /// Proves that what cannot be drawn is an error, not a panic or an empty picture.
    #[test]
    fn nothing_to_draw_is_an_error() {
        for values in [&[][..], &[f64::NAN], &[-1.0]] {
            assert!(distributions("none", "us", &[Series { name: "a", values }], None).is_err(), "{values:?}");
            assert!(even_distributions("none", "us", &[Series { name: "a", values }]).is_err(), "{values:?}");
        }
        assert!(lines("none", "x", "y", &[("a", vec![])]).is_err());
        assert!(bars("none", &[], &[Bar { name: "a".into(), label: String::new(), parts: vec![(0, 0.0)] }]).is_err());
    }

    /// Proves that bars and lines are drawn with their names.
    #[test]
    fn bars_and_lines() {
        let bar = |name: &str, length| Bar {
            name: name.into(),
            label: format!("{length} MiB"),
            parts: vec![(0, length), (1, 1.0)],
        };
        let svg = bars("memory", &["own", "shared"], &[bar("runc", 3.0), bar("ringfence", 30.0)]).unwrap().for_file();
        for word in ["runc", "ringfence", "30 MiB", "shared"] {
            assert!(svg.contains(word), "{word}");
        }
        let svg = lines("growth", "vCPUs", "ms", &[("a", vec![(1.0, 2.0), (2.0, 3.0)])]).unwrap().for_file();
        assert!(svg.contains("vCPUs") && svg.contains("polyline"));
    }

    /// Proves that a subject has one colour in all plots, also where another is missing, and that labels keep their distance.
    #[test]
    fn colours_stay_with_their_subjects() {
        let line = vec![(1.0, 1.0), (2.0, 3.0)];
        let svg = lines("x", "x", "y", &[("gone", Vec::new()), ("there", line)]).unwrap().for_page();
        assert!(svg.contains("there") && !svg.contains("gone"), "{svg}");
        assert!(svg.contains("var(--series-1)") && !svg.contains("var(--series-0)"), "{svg}");
        let series = [Series { name: "gone", values: &[] }, Series { name: "there", values: &[1.0, 90.0] }];
        let svg = distributions("x", "ms", &series, None).unwrap().for_page();
        assert!(!svg.contains("gone") && svg.contains("var(--series-1)"), "{svg}");
        assert_eq!([1.0, 9.0, 10.0, 20.0, 0.5, 0.6].map(sparse), ["1", "", "10", "20", "0.5", ""]);
    }
}
