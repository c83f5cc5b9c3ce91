"use strict";

const MAX_ROWS = 40;
let picture = null;
let chosen = ""; // the metric that was asked for
let heard = 0; // when the coordinator gave its last sign, by our clock
let notice = "";
let ahead = 0; // seconds by which the sender's clock is ahead of ours

const now = () => Date.now() / 1000 + ahead;
const drawn = new Map();

// Redraw a part only when what it shows has changed: a curve of a thousand points is not for free.
function redraw(id, draw, ...what) {
  const wide = Math.max(260, at(id).clientWidth);
  const key = JSON.stringify([wide, what]);
  if (drawn.get(id) === key) return;
  drawn.set(id, key);
  at(id).replaceChildren(draw(wide, ...what));
}

function show() {
  if (picture === null) return;
  head();
  sums();
  metricChart();
  redraw("staleness-chart", histogram, picture.staleness);
  redraw("traffic-chart", traffic, picture.rounds.slice(-30));
  clients();
  rejectedTable(picture.rejected, now());
  const reasons = Object.entries(picture.reasons).sort((a, b) => b[1] - a[1]);
  const counted = reasons.slice(0, 6).map(([reason, n]) => `${n} ${reason}`).join(", ");
  put("rejected-sum", counted || "nothing so far");
  at("rejected").hidden = !picture.rejected.length;
}

function head() {
  const ended = picture.finished ? ", finished" : picture.stopped ? ", the coordinator has stopped" : "";
  put("title", picture.federation || "no federation yet");
  const best = picture.best ? `, best: version ${picture.best[0]}` : "";
  put("run", picture.run ? `version ${picture.version}${best}, run ${picture.run}${ended}` : "");
  document.title = `${picture.federation} · version ${picture.version}`;
  const troubles = Object.values(picture.trouble);
  put("trouble", troubles.join(" · "));
}

function sums() {
  const [have, need] = picture.quorum;
  const bar = at("quorum");
  bar.setAttribute("aria-valuemax", need);
  bar.setAttribute("aria-valuenow", Math.min(have, need));
  bar.firstElementChild.style.width = `${(100 * Math.min(have, need)) / need}%`;
  put("quorum-figures", `${have} of ${need}`);
  const last = picture.rounds[picture.rounds.length - 1];
  const parts = [];
  if (picture.opened && !picture.finished) parts.push(`since ${duration(Math.max(0, now() - picture.opened))}`);
  if (last && last.seconds !== undefined) parts.push(`last round took ${duration(last.seconds)}`);
  put("quorum-more", parts.join(", "));
  const by = (status) => picture.clients.filter((line) => line.status === status).length;
  put("clients-figures", `${by("in")} of ${picture.clients.length} up to date`);
  const others = ["late", "gone", "silent", "rejected", "unseen"];
  const counted = others.filter((status, n) => n < 3 || by(status)).map((status) => `${by(status)} ${status}`);
  put("clients-more", counted.join(", "));
  put("traffic-figures", `${size(picture.bytes_up)} up, ${size(picture.bytes_down)} down`);
  const more = [`${plural(picture.updates, "update")} in ${plural(picture.rounds.length, "round")}`];
  const [up, down] = [picture.raw_bytes_up ?? picture.bytes_up, picture.raw_bytes_down ?? picture.bytes_down];
  const saved = up > picture.bytes_up || down > picture.bytes_down;
  if (saved) more.push(`without encoding ${size(up)} up, ${size(down)} down`);
  const { epsilon, promised, delta } = picture.privacy ?? {};
  if (promised) more.push(`privacy: ε ${figure(epsilon)} of ${figure(promised)} spent (δ ${delta})`);
  put("traffic-more", more.join("; "));
}

function metricChart() {
  const select = at("metric");
  const names = picture.metrics.filter((name) => picture.rounds.some((r) => Object.hasOwn(r.metrics, name)));
  const old = [...select.options].map((option) => option.value);
  if (JSON.stringify(old) !== JSON.stringify(names)) {
    select.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
  }
  const better = names.find((name) => /acc|auc/.test(name));
  const name = names.includes(chosen) ? chosen : better ?? names[0] ?? "";
  select.value = name;
  const points = picture.rounds
    .filter((round) => Number.isFinite(round.metrics[name]))  // null was NaN
    .map((round) => [round.version, round.metrics[name]]);
  // What clients evaluate in a round is the version that it began with.
  const best = name.startsWith("eval_") && picture.best ? picture.best[0] + 1 : undefined;
  const sites = picture.rounds
    .filter((round) => Object.hasOwn(round.sites ?? {}, name))
    .map((round) => [round.version, ...round.sites[name]]);
  redraw("metric-chart", curve, points, name, best, sites);
  const [, low, lowest, high, highest] = sites[sites.length - 1] ?? [];
  const told = `single sites: from ${figure(low)} (${lowest}) to ${figure(high)} (${highest})`;
  put("metric-sites", sites.length ? told : "");
}

function clients() {
  const wanted = at("find").value.trim().toLowerCase();
  const found = picture.clients.filter((line) => line.client.toLowerCase().includes(wanted));
  const shown = found.slice(0, MAX_ROWS);
  if (found.length <= MAX_ROWS) {
    shown.sort((a, b) => a.client.localeCompare(b.client, "en", { numeric: true }));
  }
  const strips = shown.map(({ client, strip }) => ({ client, strip }));
  redraw("heat-chart", heat, strips, picture.version);
  clientTable(shown, picture.metrics.slice(0, 2), now());
  const rest = found.length - shown.length;
  put("clients-rest", rest ? `${rest.toLocaleString("en")} more, which stand out less.` : "");
}

function keys(...known) {
  return known.map(([kind, words]) =>
    element("span", { class: "of-key" }, element("span", { class: `key ${kind}` }), words),
  );
}

function legend() {
  const cells = [["fresh", "in it"], ["older", "in it, late"], ["absent", "not in it"]];
  at("heat-legend").append(...keys(...cells, ["refused", "refused ×"]));
  const bars = keys(["up", "up"], ["down", "down"]);
  at("traffic-chart").after(element("p", { class: "soft" }, ...bars));
}

function link(words, lost) {
  put("link", words);
  at("link").classList.toggle("lost", lost);
}

// A view does not say whether the coordinator that made it still runs.
function signs() {
  if (picture === null) return;
  const silent = Date.now() / 1000 - heard;
  const ended = picture.finished || picture.stopped;
  if (notice) link(notice, true);
  else if (!ended && picture.alive_s && silent > 3 * picture.alive_s) {
    link(`no sign of the coordinator for ${duration(silent)}`, true);
  } else link(ended ? "ended" : "live", false);
}

function follow() {
  const source = new EventSource("events");
  source.onerror = () => link("the dashboard does not answer; trying again", true);
  source.onmessage = (message) => {
    const told = JSON.parse(message.data);
    ahead = told.now - Date.now() / 1000;
    picture = told.picture;
    heard = Date.now() / 1000 - (told.silence_s || 0);
    notice = told.notice;
    signs();
    show();
  };
  setInterval(() => { // times pass
    if (source.readyState !== EventSource.OPEN) return;
    signs();
    show();
  }, 1000);
}

at("metric").addEventListener("change", (event) => { chosen = event.target.value; show(); });
at("find").addEventListener("input", show);
addEventListener("resize", show);
legend();
const kept = at("kept");
if (kept) {
  picture = JSON.parse(kept.textContent);
  ahead = picture.time - Date.now() / 1000; // as it was then
  link(`as of ${new Date(picture.time * 1000).toLocaleString()}`, false);
  show();
} else {
  follow();
}
