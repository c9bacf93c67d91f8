// Makes the images of evaluation/report.py sortable, and compares two panels of each by a slider.
'use strict';

const form = document.querySelector('.tools');
const fields = form.elements;
const lower = form.dataset.lower.split(' ');
const byName = new Intl.Collator(undefined, {numeric: true});
const galleries = Array.from(document.querySelectorAll('.gallery'), readGallery);

// A set: its cards, with the section that vanishes when another set is chosen.
function readGallery(element) {
  const cards = Array.from(element.querySelectorAll('.card'), prepareCard);
  return {element, cards, section: element.closest('section')};
}

// What is known of a card, and the controls that it lacks without JavaScript.
function prepareCard(element) {
  const name = element.querySelector('h4').textContent;
  const scores = Array.from(element.querySelectorAll('th[data-score]'), head => head.dataset.score);
  const values = {};
  for (const row of element.querySelectorAll('tbody tr')) {
    const cells = row.querySelectorAll('td[data-value]');
    scores.forEach((score, place) => (values[score] ??= []).push(cells[place]));
  }
  const categories = Array.from(element.querySelectorAll('.tag'), tag => tag.textContent);
  const card = {element, name, values, categories};

  card.badge = document.createElement('p');
  card.badge.className = 'badge';
  element.append(card.badge);
  const strip = element.querySelector('.strip');
  if (strip) {
    strip.append(makeSlider(strip, name));
    card.more = makeButton(card);
    element.append(card.more);
  }
  return card;
}

function makeSlider(strip, name) {
  const slider = document.createElement('input');
  Object.assign(slider, {type: 'range', className: 'cut', min: 0, max: 100, value: 50});
  slider.setAttribute('aria-label', `Slider between two panels of ${name}`);
  slider.addEventListener('input', () => strip.style.setProperty('--cut', `${slider.value}%`));
  return slider;
}

function makeButton(card) {
  const button = document.createElement('button');
  Object.assign(button, {type: 'button', className: 'more'});
  button.addEventListener('click', () => show(card, card.element.classList.contains('shut')));
  return button;
}

// Shows all panels of a card and its scores, or two panels over each other.
function show(card, open) {
  card.element.classList.toggle('open', open);
  card.element.classList.toggle('shut', !open);
  if (!card.more) return;
  card.more.textContent = open ? 'Less' : 'More';
  card.more.setAttribute('aria-expanded', open);
  card.more.setAttribute('aria-label', `${open ? 'Less' : 'More'} of ${card.name}`);
}

// A score of a card by the best method (0) or the second (1); NaN where there is none.
function valueOf(card, method = 0) {
  const cell = card.values[fields.score.value][method];
  return cell && cell.dataset.value ? Number(cell.dataset.value) : NaN;
}

// Orders numbers from the lowest, and puts those that are missing last.
function ascending(a, b) {
  if (isNaN(a) || isNaN(b)) return isNaN(a) - isNaN(b);
  return a - b;
}

function comparison() {
  const sign = lower.includes(fields.score.value) ? -1 : 1;
  const orders = {
    worst: (a, b) => ascending(sign * valueOf(a), sign * valueOf(b)),
    best: (a, b) => ascending(-sign * valueOf(a), -sign * valueOf(b)),
    name: (a, b) => byName.compare(a.name, b.name),
    category: (a, b) => byName.compare(String(a.categories), String(b.categories)) || orders.worst(a, b),
    lead: (a, b) => ascending(sign * lead(a), sign * lead(b)),
  };
  return orders[fields.order.value];
}

function lead(card) {
  return valueOf(card) - valueOf(card, 1);
}

function isWanted(card) {
  const value = valueOf(card);
  const {find, category, low, high} = fields;
  if (!card.name.toLowerCase().includes(find.value.toLowerCase())) return false;
  if (category?.value && !card.categories.includes(category.value)) return false;
  if (low.value && !(value >= Number(low.value))) return false;
  return !(high.value && !(value <= Number(high.value)));
}

// Lays the chosen panels over each other. Without a photograph the ground truth takes its place.
function choosePanels(card) {
  const figures = Array.from(card.element.querySelectorAll('figure'));
  for (const side of ['left', 'right']) {
    const kind = fields[side].value;
    const chosen = figures.find(figure => figure.dataset.panel === kind) ?? figures[0];
    figures.forEach(figure => figure.classList.toggle(side, figure === chosen));
  }
}

function writeBadge(card) {
  const [best, second] = card.values[fields.score.value];
  const score = fields.score.selectedOptions[0].textContent;
  const value = document.createElement('b');
  value.textContent = best.textContent;
  card.badge.replaceChildren(`${score} `, value);
  if (second) card.badge.append(`, second ${second.textContent}`);
}

function update() {
  const compare = comparison();
  let shown = 0;
  let total = 0;
  for (const {element, cards, section} of galleries) {
    section.hidden = Boolean(fields.set?.value) && fields.set.value !== section.dataset.set;
    for (const card of cards) {
      card.element.hidden = !isWanted(card);
      choosePanels(card);
      writeBadge(card);
    }
    arrange(element, cards.sort(compare).map(card => card.element));
    total += cards.length;
    if (!section.hidden) shown += cards.filter(card => !card.element.hidden).length;
  }
  form.querySelector('output').textContent = `${shown} of ${total} images`;
}

// Cards that are moved lose the focus, so those that are in order stay.
function arrange(parent, children) {
  const inOrder = children.every((child, place) => child === parent.children[place]);
  if (!inOrder) parent.append(...children);
}

function refresh() {
  update();
  showAll();
}

function showAll() {
  for (const {cards} of galleries) cards.forEach(card => show(card, fields.all.checked));
}

// A link leads to its card, also where a filter hides that.
function follow() {
  const target = document.getElementById(location.hash.slice(1));
  if (!target?.matches('.card')) return;
  if (target.hidden || target.closest('section').hidden) form.reset();
  update();
  target.scrollIntoView();
  target.focus({preventScroll: true});
}

form.addEventListener('input', update);
form.addEventListener('submit', event => event.preventDefault());
form.addEventListener('reset', () => setTimeout(refresh));  // when the fields are reset
fields.all.addEventListener('input', showAll);
window.addEventListener('hashchange', follow);

form.hidden = false;
document.documentElement.classList.add('interactive');
refresh();
follow();
