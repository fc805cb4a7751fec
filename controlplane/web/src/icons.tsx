// Icons, drawn on a grid of 24 with the stroke of the text they stand beside.
import type { ReactNode } from 'react';

function icon(...parts: ReactNode[]) {
  return function Icon({ size = 22 }: { size?: number }) {
    return (
      <svg width={size} height={size} viewBox="0 0 24 24" fill="none" stroke="currentColor" strokeWidth="1.8" strokeLinecap="round" strokeLinejoin="round" aria-hidden="true">
        {...parts}
      </svg>
    );
  };
}

const slash = <path d="M4 3.5 20.5 20" />;
const microphone = <path d="M12 3a3 3 0 0 0-3 3v5a3 3 0 0 0 6 0V6a3 3 0 0 0-3-3ZM5.5 11a6.5 6.5 0 0 0 13 0M12 17.5V21M8.5 21h7" />;
const camera = <path d="M5 6.5h8.5a2 2 0 0 1 2 2v7a2 2 0 0 1-2 2H5a2 2 0 0 1-2-2v-7a2 2 0 0 1 2-2ZM15.5 11l5.5-3.5v9L15.5 13" />;
const display = <path d="M4 4.5h16a1 1 0 0 1 1 1v10a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1v-10a1 1 0 0 1 1-1ZM8.5 20h7" />;

export const MicrophoneIcon = icon(microphone);
export const MicrophoneOffIcon = icon(microphone, slash);
export const CameraIcon = icon(camera);
export const CameraOffIcon = icon(camera, slash);
export const ScreenIcon = icon(display, <path d="M12 13.5v-6M9.5 10 12 7.5l2.5 2.5" />);
export const ScreenStopIcon = icon(display, <path d="m9.5 8 5 5M14.5 8l-5 5" />);
export const ChatIcon = icon(<path d="M5 4.5h14a1.5 1.5 0 0 1 1.5 1.5v9a1.5 1.5 0 0 1-1.5 1.5h-8L6.5 20v-3.5H5A1.5 1.5 0 0 1 3.5 15V6A1.5 1.5 0 0 1 5 4.5ZM8 9h8M8 12.5h5" />);
export const PeopleIcon = icon(<path d="M9 11a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7ZM2.5 20a6.5 6.5 0 0 1 13 0M15.5 4.5a3.5 3.5 0 0 1 0 6M18 14.5a6.5 6.5 0 0 1 3.5 5.5" />);
export const SettingsIcon = icon(<path d="M4 7h9M17 7h3M4 17h3M11 17h9" />, <circle cx="15" cy="7" r="2" />, <circle cx="9" cy="17" r="2" />);
export const LeaveIcon = icon(<path d="M3 14.5c0-6.5 18-6.5 18 0v1.5a1 1 0 0 1-1.2 1l-3.3-.700a1 1 0 0 1-.800-1V13a13 13 0 0 0-7.4 0v2.3a1 1 0 0 1-.800 1l-3.3.700a1 1 0 0 1-1.2-1Z" />);
export const LinkIcon = icon(<path d="M10 14a4 4 0 0 0 5.7 0l3-3A4 4 0 0 0 13 5.3l-1 1M14 10a4 4 0 0 0-5.7 0l-3 3a4 4 0 0 0 5.7 5.7l1-1" />);
export const CheckIcon = icon(<path d="m5 12.5 4.5 4.5L19 7.5" />);
export const CloseIcon = icon(<path d="m6 6 12 12M18 6 6 18" />);
export const PinIcon = icon(<path d="M9 4h6l-1 6 3.5 3.5h-11L10 10ZM12 13.5V20" />);
export const GridIcon = icon(<path d="M4 4h6.5v6.5H4ZM13.5 4H20v6.5h-6.5ZM4 13.5h6.5V20H4ZM13.5 13.5H20V20h-6.5Z" />);
export const SendIcon = icon(<path d="M4 12 20 4.5 15.5 20l-4-6ZM11.5 14 20 4.5" />);
export const DiceIcon = icon(<path d="M19.5 9A8 8 0 1 0 20 13.5M20 4v5h-5" />);
