// Pictures pasted anywhere on the page go where dropped ones go.
() => {
    document.addEventListener('paste', event => {
        const images = [...event.clipboardData.files].filter(file => file.type.startsWith('image/'));
        const input = document.querySelector('#files input[type=file]');
        if (!images.length || !input) return;
        const transfer = new DataTransfer();
        images.forEach(image => transfer.items.add(image));
        input.files = transfer.files;
        input.dispatchEvent(new Event('change', {bubbles: true}));
        event.preventDefault();
    });
}
